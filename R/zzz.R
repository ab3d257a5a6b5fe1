# Loading only declares what Python needs; Python itself starts at first use.
.onLoad <- function(libname, pkgname) {
  reticulate::py_require(python_requirements, python_version = ">=3.11")
}
