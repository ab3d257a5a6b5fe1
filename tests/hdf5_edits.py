"""Changes of open HDF5 files, for tests of what reads them."""


def replace(name, values):
    """A function that gives a dataset of a file other values, of any shape and type; its attributes stay."""

    def edit(file):
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = values
        file[name].attrs.update(attributes)

    return edit
