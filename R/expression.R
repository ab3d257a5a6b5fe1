# Expression on its way to the engine: layers are cut into blocks of cells, checked,
# and handed over one after another, so that no matrix is copied as a whole.

# A stream of the expression of `genes`, all layers as one: a function that hands every
# block to `add(layer, block)`. Its attribute "n_values" is the number of stored values,
# or NULL where that is only known after reading them. Without `system`, counts are
# allowed too.
stream_expression <- function(cells, genes, system = NULL) {
  stream <- function(add) {
    check <- if (is.null(system)) check_not_scaled(cells) else check_log_normalised(cells, system)
    stream_blocks(cells, genes, function(layer, block) add(0L, block), check$check_block)
    check$check_all()
  }
  structure(stream, n_values = count_stored_values(cells))
}

count_stored_values <- function(cells) {
  counts <- lapply(cells$layers, function(layer) if (is(layer$x, "dgCMatrix")) length(layer$x@x))
  if (any(vapply(counts, is.null, NA))) NULL else sum(as.numeric(unlist(counts)))
}

# Hand every layer to `add(layer, block)` in dgCMatrix blocks of genes x cells, each
# after `check_block(block, layer, columns)`.
stream_blocks <- function(cells, genes, add, check_block) {
  for (i in seq_along(cells$layers)) {
    layer <- cells$layers[[i]]
    rows <- match(genes, layer$genes)
    if (identical(rows, seq_along(layer$genes))) rows <- NULL # all genes, in their order
    n_cells <- length(layer$cells)
    width <- max(1L, as.integer(values_per_block(is_in_memory(layer$x)) %/% max(1L, length(layer$genes))))
    for (start in seq(1L, n_cells, by = width)) {
      columns <- seq.int(start, min(start + width - 1L, n_cells))
      block <- cut_block(layer$x, rows, columns)
      check_block(block, layer, columns)
      add(i - 1L, block)
      gc(verbose = FALSE, full = FALSE) # otherwise blocks pile up to the size of the whole matrix
    }
  }
}

# Values of a block, zeros included: 8 MB of a matrix in memory; more of one on disk, so
# that whole chunks of the file are read.
values_per_block <- function(in_memory) if (in_memory) 1e6 else 2e7

is_in_memory <- function(x) is.matrix(x) || is(x, "Matrix")

# Rows (all if NULL) and consecutive columns of a matrix, as a dgCMatrix.
cut_block <- function(x, rows, columns) {
  if (!is.null(rows) && is_in_memory(x) && !is(x, "dgCMatrix")) {
    return(as_dgCMatrix(x[rows, columns, drop = FALSE]))
  }
  # from disk, whole columns are read faster than selected rows of them
  block <- if (is(x, "dgCMatrix")) cut_columns(x, columns) else as_dgCMatrix(x[, columns, drop = FALSE])
  if (is.null(rows)) block else block[rows, , drop = FALSE]
}

# x[, columns] of a dgCMatrix for consecutive columns, several times faster than `[`.
cut_columns <- function(x, columns) {
  starts <- x@p[c(columns, columns[length(columns)] + 1L)]
  stored <- seq.int(starts[1L] + 1L, length.out = starts[length(starts)] - starts[1L])
  new("dgCMatrix",
    x = x@x[stored], i = x@i[stored], p = starts - starts[1L],
    Dim = c(nrow(x), length(columns)), Dimnames = list(NULL, NULL)
  )
}

as_dgCMatrix <- function(x) {
  if (is(x, "dgCMatrix")) {
    return(x)
  }
  if (is.matrix(x)) {
    storage.mode(x) <- "double"
    return(as(as(x, "CsparseMatrix"), "generalMatrix"))
  }
  if (is(x, "Matrix")) {
    return(as(as(as(x, "dMatrix"), "generalMatrix"), "CsparseMatrix"))
  }
  as(x, "dgCMatrix")
}

# Array `order` of a task: for each cell of the results its row, from 0, among the cells
# of the layers one after another. No array where the two orders are the same.
encode_cell_order <- function(cells) {
  stored <- cells_in_layers(cells$layers)
  order <- match(cells$cells, stored) - 1L
  if (length(stored) == length(order) && !is.unsorted(order)) list() else list(order = order)
}

# Checks that expression is finite and not negative: see check_log_normalised().
check_not_scaled <- function(cells) {
  check_block <- function(block, layer, columns) {
    source <- if (length(cells$layers) > 1L) sprintf("layer '%s'", layer$name) else cells$source
    check_finite(block, source, layer$cells[columns])
    if (length(block@x) && min(block@x) < 0) {
      sysvi_abort(
        "{capitalise(source)} has negative values, so it is scaled or corrected: {cells$remedies[['scaled']]}."
      )
    }
  }
  list(check_block = check_block, check_all = function() NULL)
}

# Checks that expression is log-normalised: `check_block()` for each block,
# `check_all()` once all blocks were seen. `system` is a factor with the system of each
# of cells$cells. Values of a system that are all whole numbers are raw counts.
check_log_normalised <- function(cells, system) {
  is_whole <- setNames(rep(TRUE, nlevels(system)), levels(system))
  has_values <- !is_whole
  largest <- 0
  not_scaled <- check_not_scaled(cells)
  checked_layer <- NULL
  system_in_layer <- NULL # system of each cell of this layer, found once
  check_block <- function(block, layer, columns) {
    not_scaled$check_block(block, layer, columns)
    largest <<- max(largest, block@x)
    if (!identical(checked_layer, layer$name)) {
      checked_layer <<- layer$name
      system_in_layer <<- as.character(system)[match(layer$cells, cells$cells)]
    }
    block_system <- system_in_layer[columns]
    undecided <- is_whole[block_system] & !is.na(block_system)
    if (any(undecided)) {
      # for each cell of the block: is `condition` TRUE for any of its stored values?
      any_per_cell <- function(condition) diff(c(0L, cumsum(condition))[block@p + 1L]) > 0L
      is_whole[block_system[undecided & any_per_cell(block@x != floor(block@x))]] <<- FALSE
      has_values[block_system[undecided & any_per_cell(block@x != 0)]] <<- TRUE
    }
  }
  check_all <- function() {
    is_counts <- is_whole & has_values
    if (any(is_counts)) {
      part <- if (all(is_counts)) "" else sprintf(" in system '%s'", names(which(is_counts))[1L])
      sysvi_abort("{capitalise(cells$source)} looks like raw counts{part}: {cells$remedies[['counts']]}.")
    }
    if (largest > largest_log_value) {
      sysvi_abort(paste(
        "{capitalise(cells$source)} has values up to {format(largest)}, too large for log-normalised expression:",
        "{cells$remedies[['counts']]}."
      ))
    }
  }
  list(check_block = check_block, check_all = check_all)
}

largest_log_value <- 20 # the engine's limit: log1p of 500 million counts

check_finite <- function(block, source, cell_names) {
  if (!is.finite(sum(block@x))) {
    cell <- findInterval(which.max(!is.finite(block@x)) - 1L, block@p)
    sysvi_abort(paste(
      "{capitalise(source)} has a value that is missing or not finite (cell '{cell_names[cell]}'): remove or repair",
      "such cells or genes."
    ))
  }
}
