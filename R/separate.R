# The engine in a process of its own: the task goes over in files of a temporary
# folder, events come back as lines of JSON, the answer in files again (see
# run_folder() in python/sysvi/bridge.py).

call_separately <- function(task, values, arrays, stream, listener) {
  folder <- tempfile("sysvi-")
  dir.create(folder)
  on.exit(unlink(folder, recursive = TRUE))
  write_task(folder, task, values, arrays, stream)
  run_apart(folder, listener)
  read_answer(folder)
}

write_task <- function(folder, task, values, arrays, stream) {
  n_layers <- if (is.null(stream)) 0L else write_stream(folder, stream)
  types <- lapply(arrays, function(array) {
    list(
      type = switch(typeof(array), double = "float64", raw = "uint8", "int32"),
      shape = I(if (is.null(dim(array))) length(array) else dim(array))
    )
  })
  for (name in names(arrays)) writeBin(as.vector(arrays[[name]]), file.path(folder, paste0("in.", name)))
  given <- list(task = task, values = values, arrays = if (length(types)) types else setNames(list(), character()),
                layers = n_layers)
  writeLines(to_json(given), file.path(folder, "task.json"), useBytes = TRUE)
}

# Values as float32, genes and cells' lengths as int32; returns the number of layers.
write_stream <- function(folder, stream) {
  files <- list()
  on.exit(for (file in files) close(file))
  append_to <- function(layer, name, numbers) {
    path <- file.path(folder, sprintf("layer%d.%s", layer, name))
    if (is.null(files[[path]])) files[[path]] <<- file(path, "wb")
    writeBin(numbers, files[[path]], size = 4L)
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

# Run Python to its end and hear its events. An interrupt ends training after
# the step; before training, or a second time, it ends the process.
run_apart <- function(folder, listener) {
  python <- separate_python()
  child <- processx::process$new(
    python, c("-m", "sysvi.bridge", folder),
    env = c("current", engine_environment()),
    wd = folder, stdout = "|", stderr = file.path(folder, "stderr"), cleanup_tree = TRUE
  )
  on.exit(child$kill_tree())
  can_stop <- FALSE # training runs and was not told to stop
  repeat {
    tryCatch(
      {
        child$poll_io(200)
        for (line in child$read_output_lines()) {
          if (identical(listener$hear(line), "plan")) can_stop <- TRUE
        }
        if (!child$is_alive() && !child$is_incomplete_output()) break
      },
      interrupt = function(condition) {
        if (!can_stop) abort("Interrupted; nothing was changed.", class = "sysvi_interrupted")
        can_stop <<- FALSE
        child$interrupt()
      }
    )
  }
  if (!file.exists(file.path(folder, "answer.json"))) {
    said <- utils::tail(readLines(file.path(folder, "stderr"), warn = FALSE), 20L)
    abort(
      "The engine's process (%s) ended with status %s; run sysvi_doctor(). It said:\n%s",
      python, child$get_exit_status(), paste(said, collapse = "\n")
    )
  }
}

engine_environment <- function() {
  path <- c(engine_path(), Sys.getenv("PYTHONPATH", NA))
  c(PYTHONPATH = paste(path[!is.na(path)], collapse = .Platform$path.sep), PYTHONUTF8 = "1", PYTHONUNBUFFERED = "1")
}

read_answer <- function(folder) {
  answer <- jsonlite::fromJSON(file.path(folder, "answer.json"), simplifyDataFrame = FALSE)
  arrays <- Map(function(name, described) {
    n <- prod(described$shape)
    file <- file.path(folder, paste0("out.", name))
    numbers <- switch(described$type,
      float32 = readBin(file, "double", n, size = 4L),
      float64 = readBin(file, "double", n),
      int32 = readBin(file, "integer", n),
      uint8 = readBin(file, "raw", n),
      abort("The engine answered with numbers of type %s, unknown here.", described$type)
    )
    if (length(described$shape) > 1L) array(numbers, described$shape) else numbers
  }, names(answer$arrays), answer$arrays)
  list(values = answer$answer, arrays = arrays)
}
