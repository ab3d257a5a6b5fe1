# Loading the package declares the Python packages; Python itself starts at the first call.
.onLoad <- function(libname, pkgname) {
  reticulate::py_require(c(python_requirements, report_requirements), python_version = ">=3.11")
}
