#' Install Python packages for the engine
#'
#' Makes a virtual environment with what the engine needs. Only needed where
#' reticulate cannot get Python by itself (`reticulate::py_require()`), or where
#' a lasting environment is wanted; `RETICULATE_PYTHON`, `VIRTUAL_ENV` or
#' `SYSVI_PYTHON` go before it. On Linux without an NVIDIA card a torch for CPUs
#' is installed, which saves several gigabytes.
#'
#' @param envname Name of the virtual environment, or its folder. RunSysVI()
#'   finds the default by itself; name another in `SYSVI_PYTHON`.
#' @param python Python 3.11 or later to make it of; `NULL`: reticulate looks for
#'   one.
#' @param gpu Install a torch that can use an NVIDIA card; by default where there
#'   is a card.
#'
#' @return Invisibly the path of the environment's Python.
#' @export
#' @examples
#' \dontrun{
#' sysvi_install()
#' }
sysvi_install <- function(envname = "r-sysvi", python = NULL, gpu = has_nvidia_card()) {
  check_string(envname, "envname")
  check_flag(gpu, "gpu")
  if (!reticulate::virtualenv_exists(envname)) {
    reticulate::virtualenv_create(envname, python = python, version = if (is.null(python)) ">=3.11", packages = FALSE)
  }
  # torch first and alone: later packages find it there and do not replace it
  torch <- grep("^torch", python_requirements, value = TRUE)
  options <- if (is_linux() && !gpu) c("--index-url", cpu_wheels) else character()
  reticulate::virtualenv_install(envname, torch, pip_options = options)
  reticulate::virtualenv_install(envname, python_requirements)
  path <- reticulate::virtualenv_python(envname)
  cli::cli_inform("Installed into {path}; start R anew if Python runs in this session already.")
  invisible(path)
}
