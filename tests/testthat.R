library(testthat)
library(sysVI)

test_check("sysVI")
