# Finding and starting Python. The source of the engine is part of this package
# (inst/python), so that the R package and the engine always have the same version.

# The engine's dependencies, as in pyproject.toml (a test compares the two).
python_requirements <- c(
  "anndata>=0.11", "click>=8.1", "h5py>=3.10", "igraph>=0.11", "lazy-loader>=0.4", "matplotlib>=3.8", "numba>=0.60",
  "numpy>=1.26", "packaging>=23", "pandas>=2.1", "pynndescent>=0.5.13", "rich>=13.7", "safetensors>=0.4.3",
  "scanpy>=1.10", "scikit-learn>=1.4", "scipy>=1.11", "statsmodels>=0.14", "threadpoolctl>=3.1", "torch>=2.4",
  "umap-learn>=0.5.6"
)

# What reports need besides, the extra "report" of pyproject.toml (a test compares the two).
report_requirements <- c("jinja2>=3.1", "plotly>=6")

default_environment <- "r-sysvi" # name of the virtual environment that sysvi_install() creates
cpu_wheels <- "https://download.pytorch.org/whl/cpu"

engine_path <- function() system.file("python", package = "sysVI", mustWork = TRUE)

# The Python to use and the reason: list(path, why). With a `path` of NULL reticulate
# provides a Python with the packages that py_require() declares.
choose_python <- function() {
  if (reticulate::py_available()) {
    return(list(path = reticulate::py_config()$python, why = "it runs in this session already"))
  }
  for (variable in c("SYSVI_PYTHON", "RETICULATE_PYTHON", "VIRTUAL_ENV")) {
    path <- Sys.getenv(variable)
    if (nzchar(path) && path != "managed") {
      if (dir.exists(path)) path <- python_in_environment(path)
      if (!file.exists(path)) {
        sysvi_abort("The environment variable {variable} names {path}, but there is no Python: correct it or unset it.")
      }
      return(list(path = path, why = sprintf("the environment variable %s names it", variable)))
    }
  }
  if (reticulate::virtualenv_exists(default_environment)) {
    return(list(path = reticulate::virtualenv_python(default_environment), why = "sysvi_install() created it"))
  }
  list(path = NULL, why = "reticulate provides one (py_require())")
}

python_in_environment <- function(folder) {
  if (.Platform$OS.type == "windows") {
    file.path(folder, "Scripts", "python.exe")
  } else {
    file.path(folder, "bin", "python")
  }
}

# Start Python in this session, unless it runs already.
start_python <- function() {
  if (reticulate::py_available()) {
    return(invisible())
  }
  chosen <- choose_python()
  if (is.null(chosen$path)) {
    # without a GPU, the default torch would only download several gigabytes of CUDA
    if (!has_nvidia_gpu() && is_linux() && !nzchar(Sys.getenv("UV_INDEX"))) {
      withr::local_envvar(UV_INDEX = cpu_wheels)
    }
  } else {
    reticulate::use_python(chosen$path, required = TRUE)
  }
  started <- tryCatch(reticulate::py_available(initialize = TRUE), error = conditionMessage)
  if (!isTRUE(started)) {
    reason <- if (is.character(started)) sprintf(" (%s)", strsplit(started, "\n")[[1L]][1L]) else ""
    sysvi_abort("Python did not start{reason}: run sysvi_install(), or sysvi_doctor() to find out why.")
  }
}

# Import torch so that its matrix products use its own BLAS. R's BLAS is among the global
# symbols of the process, where torch would find it first: several times slower, and the
# last bits of results would differ. RTLD_DEEPBIND gives torch's libraries precedence.
load_torch <- function() {
  sys <- reticulate::import("sys")
  os <- reticulate::import("os")
  if (!is.null(imported_module("torch")) || !reticulate::py_has_attr(os, "RTLD_DEEPBIND")) {
    return(invisible())
  }
  flags <- sys$getdlopenflags()
  sys$setdlopenflags(bitwOr(flags, os$RTLD_DEEPBIND))
  on.exit(sys$setdlopenflags(flags))
  try(reticulate::import("torch"), silent = TRUE) # if torch is not installed, import_bridge() reports it
}

# The Python module sysvi.bridge of the engine in this package.
import_bridge <- function() {
  start_python()
  load_torch()
  engine <- normalizePath(engine_path())
  sys <- reticulate::import("sys", convert = FALSE)
  if (!engine %in% reticulate::py_to_r(sys$path)) sys$path$insert(0L, engine)
  bridge <- tryCatch(reticulate::import("sysvi.bridge"), error = conditionMessage)
  check_engine_version()
  if (is.character(bridge)) abort_import(bridge)
  bridge
}

# Stop because the engine could not be imported; `message` is Python's.
abort_import <- function(message) {
  module <- regmatches(message, regexec("No module named '([^']+)'", message))[[1L]]
  if (!length(module)) sysvi_abort("The engine cannot be imported: {message}")
  python <- reticulate::py_config()$python
  requirements <- paste(shQuote(python_requirements), collapse = " ")
  sysvi_abort(paste(
    "Python {python} has no module {module[2L]}: run sysvi_install() and restart R, or run {python} -m pip install",
    "{requirements}."
  ))
}

# Another sysvi may have been imported before, from elsewhere.
check_engine_version <- function() {
  imported <- imported_module("sysvi")
  version <- as.character(utils::packageVersion("sysVI"))
  if (!is.null(imported) && !identical(imported$`__version__`, version)) {
    sysvi_abort(paste(
      "Python has imported sysvi {imported$`__version__`} from {dirname(imported$`__file__`)}, but this R package has",
      "sysvi {version}: restart R and call sysVI first."
    ))
  }
}

# A Python module if it is imported already, otherwise NULL.
imported_module <- function(name) {
  reticulate::py_to_r(reticulate::import("sys", convert = FALSE)$modules$get(name))
}

# The Python for a separate process. Where reticulate provides it, it is started in
# another R session, so that it does not occupy this one.
find_process_python <- function() {
  path <- choose_python()$path
  if (!is.null(path)) {
    return(path)
  }
  tryCatch(
    callr::r(function() {
      asNamespace("sysVI")$start_python()
      reticulate::py_config()$python
    }),
    error = function(error) {
      sysvi_abort("Python was not found: run sysvi_install(), or sysvi_doctor() to find out why.", parent = error)
    }
  )
}

is_linux <- function() Sys.info()[["sysname"]] == "Linux"

has_nvidia_gpu <- function() {
  if (!nzchar(Sys.which("nvidia-smi"))) {
    return(FALSE)
  }
  listing <- tryCatch(processx::run("nvidia-smi", "-L", timeout = 10), error = function(e) list(stdout = ""))
  grepl("GPU", listing$stdout, fixed = TRUE)
}

#' Can the engine run?
#'
#' @return `TRUE` if there is a Python with all packages that the engine needs, so
#'   that nothing has to be installed. Python is not started in this session.
#' @export
#' @examples
#' sysvi_available()
sysvi_available <- function() {
  path <- tryCatch(choose_python()$path, error = function(e) NULL)
  !is.null(path) && !length(examine_python(path)$missing)
}
