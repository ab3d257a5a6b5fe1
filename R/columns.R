# System, batch and covariates: columns of the metadata, or vectors named by cell.

# One column: list(name, values), values in the order of the cells.
one_column <- function(x, what, cells, call_it = what, complete = TRUE) {
  if (is.character(x) && length(x) == 1L && is.null(names(x))) {
    if (!x %in% colnames(cells$metadata)) {
      abort(
        "%s = \"%s\" is not a column of the metadata: choose one of %s, or give a vector named by cell.",
        what, x, quoted(colnames(cells$metadata), 20L)
      )
    }
    column <- list(name = x, values = cells$metadata[[x]])
  } else {
    if (!is.atomic(x) || is.null(names(x))) {
      abort(
        "%s must be the name of a metadata column or a vector named by cell: setNames(%s, colnames(object)).",
        what, what
      )
    }
    column <- list(name = call_it, values = unname(x[match(cells$cells, names(x))]))
    lost <- setdiff(cells$cells, names(x))
    if (length(lost)) abort("%s lacks %d cells (%s): name a value for each.", what, length(lost), quoted(lost, 3L))
  }
  missing <- sum(is.na(column$values) | column$values %in% "")
  if (missing && complete) {
    abort(
      "%s (%s) has %d missing %s: fill them in or remove these cells.",
      sprintf("'%s'", column$name), what, missing, if (missing == 1L) "value" else "values"
    )
  }
  column
}

# Several columns: names of metadata columns, a data.frame with cells as row
# names, or one vector named by cell.
many_columns <- function(x, what, cells) {
  if (is.null(x)) {
    return(list())
  }
  if (is.data.frame(x)) {
    return(Map(
      function(values, name) one_column(setNames(values, rownames(x)), what, cells, name),
      unname(as.list(x)), colnames(x)
    ))
  }
  if (is.character(x) && is.null(names(x))) {
    return(lapply(x, one_column, what, cells))
  }
  list(one_column(x, what, cells))
}

categorical_column <- function(column) {
  list(name = column$name, values = droplevels(as.factor(column$values)), continuous = FALSE)
}

continuous_column <- function(column) {
  if (!is.numeric(column$values)) {
    abort("'%s' (continuous) is not numeric: name it in covariates instead.", column$name)
  }
  list(name = column$name, values = as.double(column$values), continuous = TRUE)
}

# Names of the columns, none of them twice; `others` are those beside system and batch.
check_named_once <- function(columns, others) {
  names <- vapply(columns, `[[`, "", "name")
  if (anyDuplicated(names)) {
    abort(
      "'%s' is named twice among system, batch and %s: name each column once.", names[anyDuplicated(names)], others
    )
  }
  invisible(names)
}

check_systems <- function(system, what) {
  sizes <- table(system)
  if (length(sizes) < 2L) {
    abort(
      "'%s' (system) holds one system only (%s): choose another column or add the other system's cells.",
      what, names(sizes)
    )
  }
}

# Columns as the engine takes them: names and levels, and arrays column0, column1, ...;
# codes of categories count from 0, and -1 is a missing one.
column_values <- function(columns) {
  lapply(columns, function(column) {
    list(name = column$name, levels = if (column$continuous) NULL else I(levels(column$values)))
  })
}

column_arrays <- function(columns) {
  arrays <- lapply(columns, function(column) {
    if (column$continuous) {
      return(column$values)
    }
    codes <- as.integer(column$values) - 1L
    codes[is.na(codes)] <- -1L
    codes
  })
  names(arrays) <- sprintf("column%d", seq_along(columns) - 1L)
  arrays
}
