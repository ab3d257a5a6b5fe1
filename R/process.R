# The engine in a process of its own. R writes the task into files of a temporary folder
# and runs `python -m sysvi.bridge FOLDER`; events come back as lines of JSON, the answer
# as files. processx runs the process: callr, which builds on it, runs R only.

call_in_process <- function(task, values, arrays, stream, listener, folder) {
  folder <- create_task_folder(if (is.null(folder)) tempdir() else folder)
  on.exit(unlink(folder, recursive = TRUE))
  write_task(folder, task, values, arrays, stream)
  run_python_process(folder, listener)
  read_answer(folder)
}

# A new folder for the files of a task, in `folder`.
create_task_folder <- function(folder) {
  path <- tempfile("sysvi-", tmpdir = folder)
  if (!dir.create(path, showWarnings = FALSE)) {
    sysvi_abort("No folder can be created in {folder}: give another one with {.arg folder}.")
  }
  path
}

# task.json with everything but the numbers, in.<name> for each array, and the files of
# write_stream().
write_task <- function(folder, task, values, arrays, stream) {
  n_layers <- if (is.null(stream)) 0L else write_stream(folder, stream)
  headers <- lapply(arrays, function(array) {
    list(
      type = switch(typeof(array), double = "float64", raw = "uint8", "int32"),
      shape = I(if (is.null(dim(array))) length(array) else dim(array))
    )
  })
  for (name in names(arrays)) writeBin(as.vector(arrays[[name]]), file.path(folder, paste0("in.", name)))
  description <- list(
    task = task, values = values, arrays = if (length(headers)) headers else setNames(list(), character()),
    layers = n_layers
  )
  writeLines(to_json(description), file.path(folder, "task.json"), useBytes = TRUE)
}

# layer<i>.values (float32), .genes (int32, from 0) and .lengths (int32, stored values of
# each cell); returns the number of layers.
write_stream <- function(folder, stream) {
  files <- list()
  on.exit(suppressWarnings(for (file in files) close(file))) # the engine checks the sizes of the files
  append_to <- function(layer, name, numbers) {
    path <- file.path(folder, sprintf("layer%d.%s", layer, name))
    if (is.null(files[[path]])) files[[path]] <<- file(path, "wb")
    tryCatch(writeBin(numbers, files[[path]], size = 4L), warning = function(warning) {
      sysvi_abort(paste(
        "The expression cannot be written into {dirname(folder)} ({conditionMessage(warning)}): free some space, or",
        "give another folder with {.arg folder}."
      ))
    })
  }
  n_layers <- 0L
  stream(function(layer, block) {
    append_to(layer, "values", block@x)
    append_to(layer, "genes", block@i)
    append_to(layer, "lengths", diff(block@p))
    n_layers <<- max(n_layers, layer + 1L)
  })
  n_layers
}

# Run Python to its end and show its events. The first interrupt during training ends
# training after the current step; any other interrupt ends the process.
run_python_process <- function(folder, listener) {
  python <- find_process_python()
  child <- processx::process$new(
    python, c("-m", "sysvi.bridge", folder),
    env = c("current", engine_environment()),
    wd = folder, stdout = "|", stderr = file.path(folder, "stderr"), cleanup_tree = TRUE
  )
  on.exit(child$kill_tree())
  can_stop_training <- FALSE # TRUE while it trains and was not told to stop
  repeat {
    tryCatch(
      {
        child$poll_io(200)
        for (line in child$read_output_lines()) {
          if (identical(listener$handle_event(line), "plan")) can_stop_training <- TRUE
        }
        if (!child$is_alive() && !child$is_incomplete_output()) break
      },
      interrupt = function(condition) {
        if (!can_stop_training) abort_interrupted()
        can_stop_training <<- FALSE
        child$interrupt()
      }
    )
  }
  if (!file.exists(file.path(folder, "answer.json"))) {
    log <- utils::tail(readLines(file.path(folder, "stderr"), warn = FALSE), 20L)
    log <- gsub("}", "}}", gsub("{", "{{", log, fixed = TRUE), fixed = TRUE) # no templates of cli
    sysvi_abort(c(
      "The engine's process ({python}) ended with status {child$get_exit_status()}: run {.run sysVI::sysvi_doctor()}.",
      setNames(c("Its last messages were:", log), rep(" ", length(log) + 1L))
    ))
  }
}

# Environment variables of the process; the engine is the one inside this package.
engine_environment <- function() {
  path <- c(engine_path(), Sys.getenv("PYTHONPATH", NA))
  c(PYTHONPATH = paste(path[!is.na(path)], collapse = .Platform$path.sep), PYTHONUTF8 = "1", PYTHONUNBUFFERED = "1")
}

# answer.json, and out.<name> for each array; the first index of an array runs fastest.
read_answer <- function(folder) {
  answer <- jsonlite::fromJSON(file.path(folder, "answer.json"), simplifyDataFrame = FALSE)
  read_array <- function(name, header) {
    n <- prod(header$shape)
    file <- file.path(folder, paste0("out.", name))
    numbers <- switch(header$type,
      float32 = readBin(file, "double", n, size = 4L),
      float64 = readBin(file, "double", n),
      int32 = readBin(file, "integer", n),
      uint8 = readBin(file, "raw", n),
      sysvi_abort("The engine returned numbers of type {header$type}, which this version of sysVI cannot read.")
    )
    if (length(header$shape) > 1L) array(numbers, header$shape) else numbers
  }
  list(values = answer$answer, arrays = Map(read_array, names(answer$arrays), answer$arrays))
}
