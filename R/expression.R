# Expression in any form, as the engine takes it.
#
# `cells_of()` describes the cells of an object plainly:
#   layers    list of list(name, x, genes, cells): matrices of genes x cells
#   cells     names of all cells, in the order of the results
#   metadata  data.frame with one row a cell, or NULL
#   where     what the matrices are called in messages
#   mend      named texts: what to do about "counts" and "scaled" values
# `stream_blocks()` cuts the layers into checked blocks of cells.

new_cells <- function(layers, cells, metadata, where, mend) {
  for (layer in layers) {
    called <- if (length(layers) > 1L) sprintf("Layer '%s'", layer$name) else sentence(where)
    check_names(layer$genes, called, "gene", "row")
    check_names(layer$cells, called, "cell", "column")
  }
  here <- unlist(lapply(layers, `[[`, "cells"), use.names = FALSE)
  if (anyDuplicated(here)) {
    abort(
      "Cell '%s' is in more than one of the layers %s: name the layers that hold each cell once with `layer`.",
      here[anyDuplicated(here)], quoted(vapply(layers, `[[`, "", "name"))
    )
  }
  lost <- setdiff(cells, here)
  if (length(lost)) {
    abort(
      "%s lacks %d of the %d cells (%s): %s.",
      sentence(where), length(lost), length(cells), quoted(lost, 3L), mend[["cells"]]
    )
  }
  list(layers = layers, cells = cells, metadata = metadata, where = where, mend = mend)
}

check_names <- function(names, where, what, side) {
  if (is.null(names) || anyNA(names) || any(names == "")) {
    abort("%s has no %s names: set its %s names.", where, what, side)
  }
  if (anyDuplicated(names)) {
    abort(
      "%s has the %s name '%s' more than once: make them unique, for example with make.unique().",
      where, what, names[anyDuplicated(names)]
    )
  }
}

sentence <- function(text) paste0(toupper(substr(text, 1L, 1L)), substring(text, 2L))

# Genes that all layers have, in the order of the first, or of `features`.
genes_of <- function(cells, features = NULL) {
  genes <- Reduce(intersect, lapply(cells$layers, `[[`, "genes"))
  if (!length(genes)) {
    abort("The layers %s share no gene.", quoted(vapply(cells$layers, `[[`, "", "name")))
  }
  if (is.null(features)) {
    return(genes)
  }
  if (!is.character(features) || anyNA(features)) abort("features must be a character vector of gene names.")
  features <- unique(features)
  lost <- setdiff(features, genes)
  if (length(lost) == length(features)) {
    abort(
      "None of the %d features is in %s: it has names like %s, features has %s.",
      length(features), cells$where, quoted(genes, 3L), quoted(features, 3L)
    )
  }
  if (length(lost)) {
    warning(sprintf(
      "%d of %d features are not in %s and are left out (%s).",
      length(lost), length(features), cells$where, quoted(lost)
    ), call. = FALSE)
  }
  setdiff(features, lost)
}

# Row of each result cell among the layers' cells one after another, from 0;
# NULL where that is the order already.
row_order <- function(cells) {
  here <- unlist(lapply(cells$layers, `[[`, "cells"), use.names = FALSE)
  order <- match(cells$cells, here) - 1L
  if (length(here) == length(order) && !is.unsorted(order)) NULL else order
}

# Hand all layers to `add(layer, block)` in checked dgCMatrix blocks of cells.
stream_blocks <- function(cells, genes, add, check) {
  for (i in seq_along(cells$layers)) {
    layer <- cells$layers[[i]]
    rows <- if (is.null(genes)) NULL else match(genes, layer$genes)
    if (identical(rows, seq_along(layer$genes))) rows <- NULL
    n <- length(layer$cells)
    width <- max(1L, as.integer(block_values(is_in_memory(layer$x)) %/% max(1L, length(layer$genes))))
    for (start in seq(1L, n, by = width)) {
      columns <- seq.int(start, min(start + width - 1L, n))
      block <- cut_block(layer$x, rows, columns)
      check(block, layer, columns)
      add(i - 1L, block)
      gc(verbose = FALSE, full = FALSE) # blocks would pile up to the size of the whole matrix
    }
  }
}

# Values of a block if it were dense: 8 MB in memory; on disk more, to read
# whole chunks.
block_values <- function(in_memory) if (in_memory) 1e6 else 2e7

is_in_memory <- function(x) is.matrix(x) || is(x, "Matrix")

cut_block <- function(x, rows, columns) {
  if (!is.null(rows) && is_in_memory(x) && !is(x, "dgCMatrix")) {
    return(as_dgCMatrix(x[rows, columns, drop = FALSE]))
  }
  # on disk, whole columns are read faster than chosen rows
  block <- if (is(x, "dgCMatrix")) neighbouring_columns(x, columns) else as_dgCMatrix(x[, columns, drop = FALSE])
  if (is.null(rows)) block else block[rows, , drop = FALSE]
}

# x[, columns] for consecutive columns, several times faster.
neighbouring_columns <- function(x, columns) {
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

# Check that expression is log-normalised, block by block; `done()` once all
# blocks were seen. `system` is the system of each of cells$cells.
check_log_normalised <- function(cells, system) {
  only_whole <- setNames(rep(TRUE, nlevels(system)), levels(system))
  any_value <- !only_whole
  largest <- 0
  block <- function(block, layer, columns) {
    where <- if (length(cells$layers) > 1L) sprintf("layer '%s'", layer$name) else cells$where
    check_finite(block, where, layer$cells[columns])
    if (length(block@x) && min(block@x) < 0) {
      abort("%s has negative values, so it is scaled or corrected: %s.", sentence(where), cells$mend[["scaled"]])
    }
    largest <<- max(largest, block@x)
    here <- as.character(system[match(layer$cells[columns], cells$cells)])
    undecided <- only_whole[here] & !is.na(here)
    if (any(undecided)) {
      has <- function(these) diff(c(0L, cumsum(these))[block@p + 1L]) > 0L # for each cell
      only_whole[here[undecided & has(block@x != floor(block@x))]] <<- FALSE
      any_value[here[undecided & has(block@x != 0)]] <<- TRUE
    }
  }
  done <- function() {
    counts <- only_whole & any_value
    if (any(counts)) {
      abort(
        "%s looks like raw counts%s: %s.", sentence(cells$where),
        if (all(counts)) "" else sprintf(" in system '%s'", names(which(counts))[1L]),
        cells$mend[["counts"]]
      )
    }
    if (largest > log_ceiling) {
      abort(
        "%s has values up to %s, too large for log-normalised expression: %s.",
        sentence(cells$where), format(largest), cells$mend[["counts"]]
      )
    }
  }
  list(block = block, done = done)
}

log_ceiling <- 20 # as in the engine: log1p of 500 million counts

check_finite <- function(block, where, names) {
  if (!is.finite(sum(block@x))) {
    cell <- findInterval(which.max(!is.finite(block@x)) - 1L, block@p)
    abort(
      "%s has a value that is missing or not finite (cell '%s'): remove or repair such cells or genes.",
      sentence(where), names[cell]
    )
  }
}
