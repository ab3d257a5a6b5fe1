# Which Python, and how the engine gets into it. The engine's source is in the
# package itself (inst/python), so that R and engine never differ in version.

# The engine's dependencies; the same as in pyproject.toml.
python_requirements <- c(
  "anndata>=0.11", "click>=8.1", "h5py>=3.10", "igraph>=0.11", "lazy-loader>=0.4", "matplotlib>=3.8", "numba>=0.60", "numpy>=1.26",
  "packaging>=23", "pandas>=2.1", "pynndescent>=0.5.13", "safetensors>=0.4.3", "scanpy>=1.10", "scikit-learn>=1.4",
  "scipy>=1.11", "statsmodels>=0.14", "torch>=2.4", "tqdm>=4.66", "umap-learn>=0.5.6"
)

environment_name <- "r-sysvi" # the virtual environment of sysvi_install()
cpu_wheels <- "https://download.pytorch.org/whl/cpu"

engine_path <- function() system.file("python", package = "sysVI", mustWork = TRUE)

# The Python to use and why: list(path, why). A path of NULL leaves it to
# reticulate, which gets one with what py_require() declared.
choose_python <- function() {
  if (reticulate::py_available()) {
    return(list(path = reticulate::py_config()$python, why = "it runs in this session already"))
  }
  for (variable in c("SYSVI_PYTHON", "RETICULATE_PYTHON", "VIRTUAL_ENV")) {
    path <- Sys.getenv(variable)
    if (nzchar(path) && path != "managed") {
      if (dir.exists(path)) path <- python_in(path)
      if (!file.exists(path)) {
        abort("%s names %s, but there is no Python: correct it or unset it.", variable, path)
      }
      return(list(path = path, why = sprintf("the environment variable %s names it", variable)))
    }
  }
  if (reticulate::virtualenv_exists(environment_name)) {
    return(list(path = reticulate::virtualenv_python(environment_name), why = "sysvi_install() made it"))
  }
  list(path = NULL, why = "reticulate gets one by itself (py_require())")
}

python_in <- function(environment) {
  if (.Platform$OS.type == "windows") {
    file.path(environment, "Scripts", "python.exe")
  } else {
    file.path(environment, "bin", "python")
  }
}

# Start Python in this session, unless it runs.
start_python <- function() {
  if (reticulate::py_available()) {
    return(invisible())
  }
  chosen <- choose_python()
  if (is.null(chosen$path)) {
    # uv would fetch torch with several gigabytes of CUDA where no card can use them
    if (!has_nvidia_card() && is_linux() && !nzchar(Sys.getenv("UV_INDEX"))) {
      withr::local_envvar(UV_INDEX = cpu_wheels)
    }
  } else {
    reticulate::use_python(chosen$path, required = TRUE)
  }
  started <- tryCatch(reticulate::py_available(initialize = TRUE), error = conditionMessage)
  if (!isTRUE(started)) {
    abort(
      "Python did not start%s: run sysvi_install(), or sysvi_doctor() to see why.",
      if (is.character(started)) sprintf(" (%s)", strsplit(started, "\n")[[1L]][1L]) else ""
    )
  }
}

# R's BLAS lies in the process's global symbols, where torch's matrix products
# would find it instead of their own: several times slower, with other last bits.
# RTLD_DEEPBIND lets torch look in its own libraries first.
load_torch <- function() {
  sys <- reticulate::import("sys")
  os <- reticulate::import("os")
  if (!is.null(loaded_module("torch")) || !reticulate::py_has_attr(os, "RTLD_DEEPBIND")) {
    return(invisible())
  }
  before <- sys$getdlopenflags()
  sys$setdlopenflags(bitwOr(before, os$RTLD_DEEPBIND))
  on.exit(sys$setdlopenflags(before))
  try(reticulate::import("torch"), silent = TRUE) # import_bridge() says if there is none
}

# The module sysvi.bridge of the engine inside this package.
import_bridge <- function() {
  start_python()
  load_torch()
  here <- normalizePath(engine_path())
  sys <- reticulate::import("sys", convert = FALSE)
  if (!here %in% reticulate::py_to_r(sys$path)) sys$path$insert(0L, here)
  bridge <- tryCatch(reticulate::import("sysvi.bridge"), error = conditionMessage)
  check_version()
  if (is.character(bridge)) {
    module <- regmatches(bridge, regexec("No module named '([^']+)'", bridge))[[1L]]
    if (length(module)) {
      abort(
        "Python %s has no module %s: run sysvi_install() and start R anew, or %s -m pip install %s.",
        reticulate::py_config()$python, module[2L], reticulate::py_config()$python,
        paste(shQuote(python_requirements), collapse = " ")
      )
    }
    abort("The engine cannot be loaded: %s", bridge)
  }
  bridge
}

# Another sysvi may have been imported before, from another place.
check_version <- function() {
  loaded <- loaded_module("sysvi")
  ours <- as.character(utils::packageVersion("sysVI"))
  if (!is.null(loaded) && !identical(loaded$`__version__`, ours)) {
    abort(
      "Python has imported sysvi %s from %s, but this R package has sysvi %s: start R anew and use RunSysVI() first.",
      loaded$`__version__`, dirname(loaded$`__file__`), ours
    )
  }
}

# A Python module that is imported already, or NULL.
loaded_module <- function(name) {
  reticulate::py_to_r(reticulate::import("sys", convert = FALSE)$modules$get(name))
}

# The Python of a separate process: where reticulate would get one, a short R
# session asks it to.
separate_python <- function() {
  path <- choose_python()$path
  if (is.null(path)) {
    ask <- "sysVI:::start_python(); cat(reticulate::py_config()$python)"
    asked <- processx::run(file.path(R.home("bin"), "Rscript"), c("-e", ask), error_on_status = FALSE)
    path <- utils::tail(strsplit(asked$stdout, "\n")[[1L]], 1L)
    if (asked$status != 0L || !length(path)) {
      abort("Python was not found: run sysvi_install(), or sysvi_doctor() to see why.")
    }
  }
  path
}

is_linux <- function() Sys.info()[["sysname"]] == "Linux"

has_nvidia_card <- function() {
  if (!nzchar(Sys.which("nvidia-smi"))) {
    return(FALSE)
  }
  listed <- tryCatch(processx::run("nvidia-smi", "-L", timeout = 10), error = function(e) list(stdout = ""))
  grepl("GPU", listed$stdout, fixed = TRUE)
}

#' Can the engine run?
#'
#' @return `TRUE` where Python with all that the engine needs is at hand without
#'   installing anything; asked without starting Python in this session.
#' @export
#' @examples
#' sysvi_available()
sysvi_available <- function() {
  path <- tryCatch(choose_python()$path, error = function(e) NULL)
  !is.null(path) && !length(examine_python(path)$missing)
}
