#' What works, what is missing, and what to do
#'
#' Prints which Python the engine uses and why, versions, the device and threads,
#' what is missing, and the command that mends it. Nothing is changed, and Python
#' is not started in this session.
#'
#' @return Invisibly a list: `python` (path or `NULL`), `why`, `versions`,
#'   `device`, `threads`, `problems` and `mend` (texts, empty where all is well).
#' @export
#' @examples
#' sysvi_doctor()
sysvi_doctor <- function() {
  found <- diagnose()
  cli::cli_h2("sysVI {found$versions[['sysVI']]}")
  cli::cli_text("Python: {if (is.null(found$python)) 'none chosen' else found$python} ({found$why})")
  cli::cli_text("Versions: {paste(names(found$versions), found$versions, collapse = ', ')}")
  if (!is.null(found$device)) cli::cli_text("Device: {found$device}")
  for (problem in found$problems) cli::cli_alert_danger("{problem}")
  for (command in found$mend) cli::cli_alert_info("To mend it: {.code {command}}")
  if (!length(found$problems)) cli::cli_alert_success("The engine can run.")
  invisible(found)
}

diagnose <- function() {
  versions <- c(
    sysVI = as.character(utils::packageVersion("sysVI")), R = as.character(getRversion()),
    reticulate = as.character(utils::packageVersion("reticulate"))
  )
  found <- list(python = NULL, why = NULL, versions = versions, device = NULL, threads = NULL,
                problems = character(), mend = character())
  chosen <- tryCatch(choose_python(), error = function(e) list(why = conditionMessage(e), broken = TRUE))
  found$why <- chosen$why
  if (is.null(chosen$path)) {
    found$problems <- if (isTRUE(chosen$broken)) chosen$why else
      "No Python with the engine's dependencies is installed; the first call would download one."
    found$mend <- "sysvi_install()"
    return(found)
  }
  found$python <- chosen$path
  examined <- examine_python(chosen$path)
  found$versions <- c(versions, examined$versions)
  found$device <- examined$device
  found$threads <- examined$threads
  found$problems <- examined$problems
  if (length(examined$missing)) {
    needed <- python_requirements[package_names(python_requirements) %in% examined$missing]
    found$mend <- if (identical(chosen$why, "sysvi_install() made it")) {
      "sysvi_install()"
    } else {
      sprintf("%s -m pip install %s", chosen$path, paste(shQuote(needed), collapse = " "))
    }
  }
  found
}

# What a Python has, asked in a process of its own: list(versions, missing,
# device, threads, problems).
examine_python <- function(path) {
  packages <- package_names(python_requirements)
  script <- system.file("doctor.py", package = "sysVI", mustWork = TRUE)
  asked <- tryCatch(
    processx::run(path, c(script, packages), error_on_status = FALSE, timeout = 120),
    error = function(e) list(status = 1L, stderr = conditionMessage(e))
  )
  if (asked$status != 0L) {
    return(list(missing = packages, problems = sprintf("%s does not run: %s", path, last_line(asked$stderr))))
  }
  said <- jsonlite::fromJSON(asked$stdout)
  absent <- vapply(said$packages, is.null, logical(1))
  problems <- c(
    if (any(absent)) sprintf("%s lacks %s.", path, paste(packages[absent], collapse = ", ")),
    if (utils::compareVersion(said$python, "3.11") < 0) sprintf("Python is %s; 3.11 or later is needed.", said$python),
    if (!is.null(said$torch$error)) sprintf("torch cannot be loaded: %s", last_line(said$torch$error)),
    if (is.null(said$torch$card) && !is.null(said$torch$threads) && has_nvidia_card()) {
      "An NVIDIA card is in this machine, but the installed torch cannot use it; sysvi_install() installs one that can."
    }
  )
  list(
    versions = c(Python = said$python, unlist(said$packages)), missing = packages[absent],
    device = if (!is.null(said$torch$card)) {
      said$torch$card
    } else if (!is.null(said$torch$threads)) {
      sprintf("cpu (%d threads)", said$torch$threads)
    },
    threads = said$torch$threads, problems = as.character(problems)
  )
}

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
#' @return Text, for example `"cpu (8 threads)"` or `"cuda (NVIDIA H100)"`.
#' @export
#' @examplesIf sysvi_available()
#' sysvi_device()
sysvi_device <- function(device = "auto", process = c("session", "separate")) {
  check_string(device, "device")
  process <- one_of(process, c("session", "separate"), "process")
  call_engine("device", list(device = device), process = process)$values$device
}
