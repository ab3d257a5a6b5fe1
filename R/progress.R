# Shows events of the engine, one line of JSON each, with cli: a line per finished step
# and a progress bar during training. Warnings are collected and raised at the end.
new_event_listener <- function(verbose) {
  warnings <- character()
  bar <- NULL
  bar_frame <- environment()

  close <- function() {
    if (!is.null(bar)) cli::cli_progress_done(id = bar, .envir = bar_frame)
    bar <<- NULL
  }
  show_epoch <- function(event) {
    if (is.null(bar)) {
      bar <<- cli::cli_progress_bar(
        format = "Training {cli::pb_bar} epoch {cli::pb_current}/{cli::pb_total}, {cli::pb_status}",
        total = event$epochs, clear = TRUE, auto_terminate = FALSE, .auto_close = FALSE, .envir = bar_frame
      )
    }
    format_loss <- function(term) format(event$losses[[paste0(term, "_train")]], digits = 4L)
    status <- sprintf(
      "reconstruction loss %s, KL divergence %s, cycle loss %s, %s left", format_loss("reconstruction"),
      format_loss("kl"), format_loss("cycle"), format_duration(event$seconds_left)
    )
    cli::cli_progress_update(set = event$epoch, status = status, id = bar, .envir = bar_frame)
  }
  # Shows one event; returns its stage.
  handle_event <- function(line) {
    event <- jsonlite::fromJSON(line)
    if (event$stage == "warning") {
      warnings <<- unique(c(warnings, event$message))
    } else if (verbose && event$stage == "epoch") {
      show_epoch(event)
    } else if (verbose && nzchar(event$message)) {
      if (event$stage != "model") close() # "model": one of several has finished, the others train on
      cli::cli_inform("{event$message}")
    }
    event$stage
  }
  list(handle_event = handle_event, close = close, warnings = function() warnings)
}

# 75 -> "1m 15s"
format_duration <- function(seconds) {
  seconds <- round(seconds)
  parts <- c(h = seconds %/% 3600, m = seconds %/% 60 %% 60, s = seconds %% 60)
  shown <- parts[cumsum(parts) > 0]
  if (length(shown)) paste0(shown, names(shown), collapse = " ") else "0s"
}
