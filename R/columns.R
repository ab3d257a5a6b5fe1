# Which columns describe the cells: the R twin of the engine's `Columns`.
#
# A column is list(name, values, continuous), its values in the order of the cells:
# a factor, or numbers where `continuous` is TRUE. Users give a column as the name of a
# metadata column or as a vector named by cell.

# All columns of a call, read and validated once: a list of `system`, `batch`, `label`,
# `pseudoinputs_label` (each a column, or NULL), `covariates` and `continuous` (lists of
# columns) and `weight_systems`.
describe_columns <- function(cells, system, batch = NULL, label = NULL, covariates = NULL, continuous = NULL,
                             pseudoinputs_label = NULL, weight_systems = FALSE) {
  read_category <- function(x, role, complete = TRUE) {
    if (!is.null(x)) as_categorical(read_column(x, role, cells, complete = complete))
  }
  columns <- list(
    system = read_category(system, "system"),
    batch = read_category(batch, "batch"),
    label = read_category(label, "label", complete = FALSE),
    covariates = lapply(read_columns(covariates, "covariates", cells), as_categorical),
    continuous = lapply(read_columns(continuous, "continuous", cells), as_continuous),
    pseudoinputs_label = NULL,
    weight_systems = weight_systems
  )
  names <- column_names(list_columns(columns))
  if (anyDuplicated(names)) {
    sysvi_abort(paste(
      "'{names[anyDuplicated(names)]}' is named more than once among system, batch, label and covariates: name each",
      "column once."
    ))
  }
  columns$pseudoinputs_label <- read_category(pseudoinputs_label, "pseudoinputs_label")
  check_several_systems(columns$system)
  columns
}

# All columns one after another; the label of pseudo-inputs may be one of the others.
list_columns <- function(columns) {
  listed <- c(
    Filter(Negate(is.null), unname(columns[c("system", "batch", "label")])), columns$covariates, columns$continuous
  )
  extra <- columns$pseudoinputs_label
  if (is.null(extra) || extra$name %in% column_names(listed)) listed else c(listed, list(extra))
}

column_names <- function(columns) vapply(columns, `[[`, "", "name")

# One column as list(name, values). `role` is the argument that it was given for;
# `name` the name of a column that is given as a vector.
read_column <- function(x, role, cells, name = role, complete = TRUE) {
  if (is.character(x) && length(x) == 1L && is.null(names(x))) {
    available <- colnames(cells$metadata)
    if (!x %in% available) {
      sysvi_abort(paste(
        "{role} = \"{x}\" is not a column of the metadata: choose one of {quote_names(available, 20L)}, or give a",
        "vector named by cell."
      ))
    }
    column <- list(name = x, values = cells$metadata[[x]])
  } else {
    if (!is.atomic(x) || is.null(names(x))) {
      sysvi_abort(paste(
        "{.arg {role}} must be the name of a metadata column or a vector named by cell:",
        "{.code setNames({role}, colnames(object))}."
      ))
    }
    absent <- setdiff(cells$cells, names(x))
    if (length(absent)) {
      sysvi_abort(
        "{.arg {role}} lacks {length(absent)} cells ({quote_names(absent, 3L)}): give a value for each cell."
      )
    }
    column <- list(name = name, values = unname(x[match(cells$cells, names(x))]))
  }
  n_missing <- sum(is.na(column$values) | column$values %in% "")
  if (n_missing && complete) {
    sysvi_abort(
      "'{column$name}' ({role}) has {n_missing} missing value{?s}: fill {?it/them} in or remove these cells."
    )
  }
  column
}

# Several columns: names of metadata columns, a data.frame with cells as row names, or
# one vector named by cell.
read_columns <- function(x, role, cells) {
  if (is.null(x)) {
    return(list())
  }
  if (is.data.frame(x)) {
    return(lapply(colnames(x), function(name) {
      read_column(setNames(x[[name]], rownames(x)), role, cells, name)
    }))
  }
  if (is.character(x) && is.null(names(x))) {
    return(lapply(x, read_column, role, cells))
  }
  list(read_column(x, role, cells))
}

as_categorical <- function(column) {
  list(name = column$name, values = droplevels(as.factor(column$values)), continuous = FALSE)
}

as_continuous <- function(column) {
  if (!is.numeric(column$values)) {
    sysvi_abort("'{column$name}' (continuous) is not numeric: name it in {.arg covariates} instead.")
  }
  list(name = column$name, values = as.double(column$values), continuous = TRUE)
}

check_several_systems <- function(system) {
  if (nlevels(system$values) < 2L) {
    sysvi_abort(paste(
      "'{system$name}' (system) holds one system only ({levels(system$values)}): choose another column or add cells of",
      "the other system."
    ))
  }
}

# Columns as the engine takes them: names and levels in the values of a task, ...
column_headers <- function(columns) {
  lapply(columns, function(column) {
    list(name = column$name, levels = if (column$continuous) NULL else I(levels(column$values)))
  })
}

# ... and arrays column0, column1, ...: numbers, or codes of categories from 0, with -1
# for a missing value.
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
