# Calls of the engine (Python module sysvi.bridge). A task has a name, values (sent as
# JSON), named arrays and, if it works on cells, a stream of expression. The answer is
# values and arrays as well; no object that lives in Python is kept.
#
# stream   NULL, or a function(add) that hands over every block by add(layer, block),
#          see stream_expression()
# process  "session" or "separate"
# folder   where files are kept during the call, in a folder of their own; NULL: expression
#          goes to the Python of this session in memory, and to a process through tempdir()
# returns  list(values, arrays)
call_engine <- function(task, values, arrays = list(), stream = NULL, process = "session", verbose = TRUE,
                        folder = NULL) {
  listener <- new_event_listener(verbose)
  on.exit(listener$close())
  run_task <- if (process == "session") call_in_session else call_in_process
  answer <- run_task(task, values, arrays, stream, listener, folder)
  listener$close()
  for (message in listener$warnings()) sysvi_warn("{message}")
  if (!is.null(answer$values$error)) sysvi_abort("{answer$values$error}")
  if (isTRUE(answer$values$interrupted)) abort_interrupted()
  answer
}

abort_interrupted <- function() sysvi_abort("Interrupted; nothing was changed.", class = "sysvi_interrupted")

# Run a task in the Python of this R session. An interrupt is caught at the next event,
# and the value TRUE then tells the engine to stop.
call_in_session <- function(task, values, arrays, stream, listener, folder) {
  bridge <- import_bridge()
  if (is.null(folder)) {
    expression <- collect_stream(bridge, stream)
  } else {
    folder <- create_task_folder(folder)
    on.exit(unlink(folder, recursive = TRUE))
    expression <- bridge$Expression$from_files(folder, write_stream(folder, stream))
  }
  on_event <- function(line) tryCatch(listener$handle_event(line), interrupt = function(condition) TRUE)
  arrays <- lapply(arrays, function(array) if (is.null(dim(array)) && !is.raw(array)) as_1d_array(array) else array)
  json <- to_json(values)
  gc(verbose = FALSE) # frees what R no longer needs before the engine takes memory
  answer <- bridge$call(task, json, reticulate::dict(arrays), expression, on_event)
  list(values = jsonlite::fromJSON(answer[[1L]]), arrays = answer[[2L]])
}

# Expression that is handed over in memory.
collect_stream <- function(bridge, stream) {
  n_values <- attr(stream, "n_values")
  expression <- bridge$Expression(if (is.null(n_values)) 0 else n_values)
  if (!is.null(stream)) {
    stream(function(layer, block) {
      bridge$Expression$add(expression, layer, as_1d_array(block@x), as_1d_array(block@i), as_1d_array(block@p))
    })
  }
  expression
}

# reticulate turns a plain vector into a Python list, but an array into a NumPy array.
as_1d_array <- function(x) array(x, length(x))

to_json <- function(values) {
  jsonlite::toJSON(values, auto_unbox = TRUE, null = "null", digits = I(17))
}

# A table of an answer as a data.frame: `header` has the order of the columns and the
# values of those of text or flags; `numbers` is a matrix of the other columns.
decode_table <- function(header, numbers) {
  texts <- lapply(header$texts, function(text) if (length(text)) text else character())
  numeric <- setdiff(header$order, names(texts))
  numbers <- matrix(nan_to_na(numbers), ncol = length(numeric), dimnames = list(NULL, numeric))
  columns <- lapply(setNames(nm = header$order), function(name) {
    if (name %in% numeric) unname(numbers[, name]) else texts[[name]]
  })
  as.data.frame(columns, optional = TRUE)
}

nan_to_na <- function(numbers) {
  numbers[is.nan(numbers)] <- NA
  numbers
}

# A genes x cells dgCMatrix from the arrays of a cells x genes CSR matrix, which are the
# same. `values` is the name of the array with the stored values.
decode_dgCMatrix <- function(arrays, values, genes, cells) {
  new("dgCMatrix",
    x = as.double(arrays[[values]]), i = as.integer(arrays$genes), p = as.integer(arrays$starts),
    Dim = c(length(genes), length(cells)), Dimnames = list(genes, cells)
  )
}
