# Loading the package declares the Python packages; Python itself starts at the first call.
.onLoad <- function(libname, pkgname) {
  reticulate::py_require(python_requirements, python_version = ">=3.11")
}
