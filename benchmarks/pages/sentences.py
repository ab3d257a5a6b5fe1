GIVEN={}
def sentences(): return {}
