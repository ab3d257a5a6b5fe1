# One way to the engine (python/sysvi/bridge.py): a task's name, its values,
# named arrays and, for tasks on cells, a stream of expression go over; plain
# values and arrays come back. Nothing that lives in Python is kept.
#
# stream   NULL or a function(add) that hands over all blocks by add(layer, block);
#          its attribute "room" is how many stored values there are, where known
# returns  list(values, arrays)
call_engine <- function(task, values, arrays = list(), stream = NULL, process = "session", verbose = TRUE) {
  listener <- new_listener(verbose)
  on.exit(listener$close())
  run <- if (process == "session") call_in_session else call_separately
  answer <- run(task, values, arrays, stream, listener)
  listener$close()
  for (text in listener$warnings()) warning(text, call. = FALSE)
  if (!is.null(answer$values$error)) abort("%s", answer$values$error)
  if (isTRUE(answer$values$interrupted)) abort("Interrupted; nothing was changed.", class = "sysvi_interrupted")
  answer
}

call_in_session <- function(task, values, arrays, stream, listener) {
  bridge <- import_bridge()
  room <- attr(stream, "room")
  expression <- bridge$Expression(if (is.null(room)) 0 else room)
  if (!is.null(stream)) {
    stream(function(layer, block) {
      bridge$Expression$add(expression, layer, one_dim(block@x), one_dim(block@i), one_dim(block@p))
    })
  }
  on_event <- function(line) tryCatch(listener$hear(line), interrupt = function(condition) TRUE)
  arrays <- lapply(arrays, function(array) if (is.null(dim(array)) && !is.raw(array)) one_dim(array) else array)
  text <- to_json(values)
  gc(verbose = FALSE) # while the engine works, R need not hold what it no longer uses
  answer <- bridge$call(task, text, reticulate::dict(arrays), expression, on_event)
  list(values = jsonlite::fromJSON(answer[[1L]]), arrays = answer[[2L]])
}

# reticulate makes a Python list of a plain vector, but a NumPy array of an R array.
one_dim <- function(x) array(x, length(x))

to_json <- function(values) {
  jsonlite::toJSON(values, auto_unbox = TRUE, null = "null", digits = I(17))
}
