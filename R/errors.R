# Errors, warnings and checks of arguments.
#
# An error is one sentence: what is wrong, where (object, assay, layer, column,
# gene), and what to do. Messages are templates of cli: values stand in braces, and
# braces inside a value are printed as they are.

sysvi_abort <- function(message, ..., class = NULL, .envir = parent.frame()) {
  cli::cli_abort(message, ..., class = c(class, "sysvi_error"), call = NULL, .envir = .envir)
}

sysvi_warn <- function(message, .envir = parent.frame()) {
  cli::cli_warn(message, class = "sysvi_warning", call = NULL, .envir = .envir)
}

# Names for a message: 'a', 'b', 'c', ...; "none" if there are none.
quote_names <- function(names, n_max = 5L) {
  shown <- paste0("'", utils::head(names, n_max), "'", collapse = ", ")
  if (!length(names)) "none" else if (length(names) > n_max) paste0(shown, ", ...") else shown
}

# "layer 'data'" -> "Layer 'data'"
capitalise <- function(text) paste0(toupper(substr(text, 1L, 1L)), substring(text, 2L))

# Stop unless `x` fulfils `predicate`. rlang exports such predicates, but no checks
# that stop with an error. The engine checks ranges; types are checked here because
# NULL and NA become `null` in JSON, which the engine reads as its own default.
check_argument <- function(x, predicate, requirement, null_allowed, name) {
  if (predicate(x) || (null_allowed && is.null(x))) {
    return(invisible(x))
  }
  if (null_allowed) requirement <- paste(requirement, "or NULL")
  if (is.atomic(x) && length(x) == 1L) {
    sysvi_abort("{.arg {name}} must be {requirement}, not {.val {x}}.")
  }
  sysvi_abort("{.arg {name}} must be {requirement}, not {.obj_type_friendly {x}}.")
}

check_bool <- function(x, name = rlang::caller_arg(x)) {
  check_argument(x, rlang::is_bool, "TRUE or FALSE", FALSE, name)
}

check_string <- function(x, null_allowed = FALSE, name = rlang::caller_arg(x)) {
  check_argument(x, function(x) rlang::is_string(x) && nzchar(x), "a string", null_allowed, name)
}

check_strings <- function(x, null_allowed = FALSE, name = rlang::caller_arg(x)) {
  is_text <- function(x) is.character(x) && !anyNA(x) && all(nzchar(x))
  check_argument(x, is_text, "a character vector", null_allowed, name)
}

check_named_strings <- function(x, name = rlang::caller_arg(x)) {
  is_named <- function(x) is.character(x) && !anyNA(x) && rlang::is_named(x)
  check_argument(x, is_named, "a named character vector", TRUE, name)
}

check_whole_number <- function(x, null_allowed = FALSE, name = rlang::caller_arg(x)) {
  is_whole <- function(x) rlang::is_integerish(x, n = 1L, finite = TRUE)
  check_argument(x, is_whole, "a whole number", null_allowed, name)
}

check_number <- function(x, null_allowed = FALSE, name = rlang::caller_arg(x)) {
  check_argument(x, function(x) is_finite_number(x, 1L), "a number", null_allowed, name)
}

# A loss weight or mixture share: one number, or value, start and end of its ramp.
check_weight <- function(x, null_allowed = FALSE, name = rlang::caller_arg(x)) {
  requirement <- "a number or c(value, start, end)"
  check_argument(x, function(x) is_finite_number(x, c(1L, 3L)), requirement, null_allowed, name)
}

is_finite_number <- function(x, lengths) is.numeric(x) && length(x) %in% lengths && all(is.finite(x))

# For rlang::check_dots_empty(): an unknown argument may be a setting of sysvi_options().
suggest_options <- function(error) {
  sysvi_abort(
    "Unknown argument: see {.code ?sysvi_options} for settings that are given as {.code options = sysvi_options(...)}.",
    parent = error
  )
}
