# Events of the engine, one line of JSON each, shown with cli: lines for what is
# done and a bar while it trains. Warnings are kept for the end.
new_listener <- function(verbose) {
  warnings <- character()
  bar <- NULL
  home <- environment()

  close <- function() {
    if (!is.null(bar)) cli::cli_progress_done(id = bar, .envir = home)
    bar <<- NULL
  }
  show_epoch <- function(event) {
    if (is.null(bar)) {
      bar <<- cli::cli_progress_bar(
        format = "Training {cli::pb_bar} epoch {cli::pb_current}/{cli::pb_total}, {cli::pb_status}",
        total = event$epochs, clear = TRUE, auto_terminate = FALSE, .auto_close = FALSE, .envir = home
      )
    }
    loss <- function(term) format(event$losses[[paste0(term, "_train")]], digits = 4L)
    status <- sprintf(
      "reconstruction %s, kl %s, cycle %s, %s left", loss("reconstruction"), loss("kl"), loss("cycle"),
      time_left(event$seconds_left)
    )
    cli::cli_progress_update(set = event$epoch, status = status, id = bar, .envir = home)
  }
  hear <- function(line) {
    event <- jsonlite::fromJSON(line)
    if (event$stage == "warning") {
      warnings <<- unique(c(warnings, event$message))
    } else if (verbose && event$stage == "epoch") {
      show_epoch(event)
    } else if (verbose && nzchar(event$message)) {
      if (event$stage != "model") close() # one of several has ended; the bar goes on
      cli::cli_inform("{event$message}")
    }
    event$stage
  }
  list(hear = hear, close = close, warnings = function() warnings)
}

# 75 -> "1m 15s"
time_left <- function(seconds) {
  seconds <- round(seconds)
  parts <- c(h = seconds %/% 3600, m = seconds %/% 60 %% 60, s = seconds %% 60)
  shown <- parts[cumsum(parts) > 0]
  if (length(shown)) paste0(shown, names(shown), collapse = " ") else "0s"
}
