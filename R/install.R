#' Install the Python packages of the engine
#'
#' Creates a virtual environment with the Python packages that the engine needs. It
#' is only needed where reticulate cannot provide Python by itself
#' (`reticulate::py_require()`) or where a permanent environment is wanted. The
#' environment variables `SYSVI_PYTHON`, `RETICULATE_PYTHON` and `VIRTUAL_ENV` take
#' precedence over it. On Linux without an NVIDIA GPU the CPU build of torch is
#' installed, which saves several gigabytes.
#'
#' @param envname Name or folder of the virtual environment. RunSysVI() finds the
#'   default by itself; set `SYSVI_PYTHON` to use another one.
#' @param python Path of a Python 3.11 or later to create the environment with;
#'   `NULL` lets reticulate find one.
#' @param gpu Whether to install a torch that can use an NVIDIA GPU; by default
#'   whether there is one.
#'
#' @return Invisibly, the path of the Python in the environment.
#' @export
#' @examples
#' \dontrun{
#' sysvi_install()
#' }
sysvi_install <- function(envname = "r-sysvi", python = NULL, gpu = has_nvidia_gpu()) {
  check_string(envname)
  check_bool(gpu)
  if (!reticulate::virtualenv_exists(envname)) {
    reticulate::virtualenv_create(envname, python = python, version = if (is.null(python)) ">=3.11", packages = FALSE)
  }
  # torch alone and first: the other packages then find it installed and do not replace it
  torch <- grep("^torch", python_requirements, value = TRUE)
  pip_options <- if (is_linux() && !gpu) c("--index-url", cpu_wheels) else character()
  reticulate::virtualenv_install(envname, torch, pip_options = pip_options)
  reticulate::virtualenv_install(envname, c(python_requirements, report_requirements))
  path <- reticulate::virtualenv_python(envname)
  cli::cli_inform("Installed into {path}. If Python runs in this session already, restart R.")
  invisible(path)
}
