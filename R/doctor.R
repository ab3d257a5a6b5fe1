#' Check the installation of the engine
#'
#' Prints which Python the engine uses and why, the versions of all packages, the
#' device and number of threads, what is missing, and the command that installs it.
#' Nothing is changed, and Python is not started in this session.
#'
#' @return Invisibly, a list of `python` (path, or `NULL`), `why` (the reason for
#'   this choice), `versions`, `device`, `threads`, `problems`, and `mend` (commands
#'   that solve the problems); the last two are empty if there is no problem.
#' @export
#' @examples
#' sysvi_doctor()
sysvi_doctor <- function() {
  diagnosis <- diagnose()
  cli::cli_h2("sysVI {diagnosis$versions[['sysVI']]}")
  cli::cli_text("Python: {if (is.null(diagnosis$python)) 'none chosen' else diagnosis$python} ({diagnosis$why})")
  cli::cli_text("Versions: {paste(names(diagnosis$versions), diagnosis$versions, collapse = ', ')}")
  if (!is.null(diagnosis$device)) cli::cli_text("Device: {diagnosis$device}")
  for (problem in diagnosis$problems) cli::cli_alert_danger("{problem}")
  for (command in diagnosis$mend) cli::cli_alert_info("To solve this, run {.code {command}}")
  if (!length(diagnosis$problems)) cli::cli_alert_success("The engine can run.")
  invisible(diagnosis)
}

# The value of sysvi_doctor(), without printing.
diagnose <- function() {
  diagnosis <- list(
    python = NULL, why = NULL,
    versions = c(
      sysVI = as.character(utils::packageVersion("sysVI")), R = as.character(getRversion()),
      reticulate = as.character(utils::packageVersion("reticulate"))
    ),
    device = NULL, threads = NULL, problems = character(), mend = character()
  )
  chosen <- tryCatch(choose_python(), error = identity)
  if (inherits(chosen, "error")) {
    diagnosis$why <- diagnosis$problems <- conditionMessage(chosen)
    diagnosis$mend <- "sysvi_install()"
    return(diagnosis)
  }
  diagnosis$why <- chosen$why
  if (is.null(chosen$path)) {
    diagnosis$problems <- "No Python with the engine's packages is installed; the first call would download one."
    diagnosis$mend <- "sysvi_install()"
    return(diagnosis)
  }
  examined <- examine_python(chosen$path)
  diagnosis$python <- chosen$path
  diagnosis$versions <- c(diagnosis$versions, examined$versions)
  diagnosis$device <- examined$device
  diagnosis$threads <- examined$threads
  diagnosis$problems <- examined$problems
  if (length(examined$missing)) {
    needed <- python_requirements[package_names(python_requirements) %in% examined$missing]
    diagnosis$mend <- if (identical(chosen$why, "sysvi_install() created it")) {
      "sysvi_install()"
    } else {
      sprintf("%s -m pip install %s", chosen$path, paste(shQuote(needed), collapse = " "))
    }
  }
  diagnosis
}

# What a Python provides, examined by inst/doctor.py in a process of its own:
# list(versions, missing, device, threads, problems). `missing` are names of packages.
examine_python <- function(path) {
  packages <- package_names(python_requirements)
  script <- system.file("doctor.py", package = "sysVI", mustWork = TRUE)
  output <- tryCatch(
    processx::run(path, c(script, packages), error_on_status = FALSE, timeout = 120),
    error = function(e) list(status = 1L, stderr = conditionMessage(e))
  )
  if (output$status != 0L) {
    return(list(missing = packages, problems = sprintf("%s does not run: %s", path, last_line(output$stderr))))
  }
  report <- jsonlite::fromJSON(output$stdout)
  missing <- packages[vapply(report$packages, is.null, logical(1))]
  torch <- report$torch # empty if torch is not installed
  problems <- c(
    if (length(missing)) sprintf("%s lacks %s.", path, paste(missing, collapse = ", ")),
    if (utils::compareVersion(report$python, "3.11") < 0) {
      sprintf("Python is %s; 3.11 or later is needed.", report$python)
    },
    if (!is.null(torch$error)) sprintf("torch cannot be imported: %s", last_line(torch$error)),
    if (is.null(torch$gpu) && !is.null(torch$threads) && has_nvidia_gpu()) {
      "This machine has an NVIDIA GPU, but the installed torch cannot use it; sysvi_install() installs one that can."
    }
  )
  list(
    versions = c(Python = report$python, unlist(report$packages)), missing = missing,
    device = if (!is.null(torch$gpu)) {
      torch$gpu
    } else if (!is.null(torch$threads)) {
      sprintf("cpu (%d threads)", torch$threads)
    },
    threads = torch$threads, problems = as.character(problems)
  )
}

# "torch>=2.4" -> "torch"
package_names <- function(requirements) sub("[<>=!].*", "", requirements)

last_line <- function(text) {
  lines <- strsplit(trimws(text), "\n")[[1L]]
  if (length(lines)) lines[length(lines)] else ""
}

#' The device that the engine would use
#'
#' @param device As in [RunSysVI()].
#' @param process As in [RunSysVI()].
#'
#' @return A string, for example `"cpu (8 threads)"` or `"cuda (NVIDIA H100)"`.
#' @export
#' @examplesIf sysvi_available()
#' sysvi_device()
sysvi_device <- function(device = "auto", process = c("session", "separate")) {
  check_string(device)
  process <- rlang::arg_match(process)
  call_engine("device", list(device = device), process = process)$values$device
}
