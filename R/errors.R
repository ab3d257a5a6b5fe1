# Every error of the package is one sentence: what is wrong, where, and what to
# do. Texts go through sprintf(), so names with braces do no harm; of an empty
# value it would make no text at all.
abort <- function(text, ..., class = NULL) {
  values <- lapply(list(...), function(value) if (length(value)) value else NA)
  stop(errorCondition(
    if (length(values)) do.call(sprintf, c(list(text), values)) else text,
    class = c(class, "sysvi_error"), call = NULL
  ))
}

# 'a', 'b', 'c', ...
quoted <- function(x, most = 5L) {
  shown <- paste0("'", utils::head(x, most), "'", collapse = ", ")
  if (!length(x)) "none" else if (length(x) > most) paste0(shown, ", ...") else shown
}

need_package <- function(package, for_what) {
  if (!requireNamespace(package, quietly = TRUE)) {
    abort("%s needs the package %s: install.packages(\"%s\").", for_what, package, package)
  }
}

check_flag <- function(x, name) {
  if (!is.logical(x) || length(x) != 1L || is.na(x)) abort("%s must be TRUE or FALSE.", name)
}

# Named values of one number each. The engine would take NULL and NA, both null
# in JSON, for its own default.
check_given <- function(..., .or_null = FALSE) {
  values <- list(...)
  for (name in names(values)) {
    value <- values[[name]]
    if (is.null(value) && !.or_null) abort("%s is NULL: give a value.", name)
    if (is.atomic(value) && length(value) == 1L && is.na(value)) {
      abort("%s is %s: give a value%s.", name, format(value), if (.or_null) " or NULL" else "")
    }
  }
}

check_string <- function(x, name) {
  if (!is.character(x) || length(x) != 1L || is.na(x) || !nzchar(x)) abort("%s must be one text.", name)
}
