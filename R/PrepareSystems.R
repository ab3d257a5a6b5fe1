#' Join systems whose genes are named differently
#'
#' Renames genes by a table of orthologues, keeps those that all systems have
#' and that are seen in each of them, normalises counts and joins the cells in
#' one object, ready for [RunSysVI()]. The engine does it, so Python and R give
#' the same values.
#'
#' @details
#' For each system the column of the table that holds most of its gene names is
#' taken; a system whose column is that of `reference` keeps its names. Genes
#' that are not in the table, or have several targets, are left out; genes that
#' share a target are left out or summed (`duplicates`). Then genes seen in
#' more than `min_cells` cells of every system are kept; counts are scaled to
#' 10,000 a cell over these genes, and log(1 + x) is taken.
#'
#' @param objects Named list with one object for each system: all Seurat, all
#'   SingleCellExperiment, or all matrices of genes x cells, with counts.
#' @param orthologs Data frame with pairs of gene names, or the path of a
#'   `.csv` or tab-separated file with a header; `NULL` where genes are named
#'   alike already.
#' @param system Name of the metadata column that gets the systems' names.
#' @param reference Name of the system whose gene names are kept.
#' @param duplicates Genes of one target: `"drop"` them all or `"sum"` their
#'   counts.
#' @param normalize `FALSE` where the expression is log-normalised already.
#' @param min_cells A gene must be seen in more cells than this of every system.
#' @param process,verbose As in [RunSysVI()].
#' @param ... For objects, `assay` and `layer` with the counts, as in
#'   [RunSysVI()]; by default `"counts"` (where `normalize = FALSE`, `"data"` or
#'   `"logcounts"`). For matrices, `metadata`: one data frame for all cells.
#'
#' @return One object with the cells of all systems in the given order, and the
#'   metadata columns that all have. Seurat: layers `counts` and `data`;
#'   SingleCellExperiment: assays `counts` and `logcounts`; matrices: a list of
#'   `expression` and `counts` (dgCMatrix) and `metadata`. Without
#'   normalisation there are no counts. Where a cell name is in two systems, all
#'   names get the prefix `<system>_`. The result is held in memory.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 200, n_genes = 100)
#' human <- cells$counts[, cells$metadata$system == "system1"]
#' mouse <- cells$counts[, cells$metadata$system == "system2"]
#' rownames(mouse) <- paste0("m", rownames(mouse))
#' pairs <- data.frame(human = rownames(human), mouse = rownames(mouse))
#' joined <- PrepareSystems(list(human = human, mouse = mouse), pairs, verbose = FALSE)
#' dim(joined$expression)
#' table(joined$metadata$system)
PrepareSystems <- function(objects, orthologs = NULL, system = "system", reference = names(objects)[1L],
                           duplicates = c("drop", "sum"), normalize = TRUE, min_cells = 20L,
                           process = c("session", "separate"), verbose = TRUE, ...) {
  duplicates <- one_of(duplicates, c("drop", "sum"), "duplicates")
  process <- one_of(process, c("session", "separate"), "process")
  check_string(system, "system")
  check_flag(normalize, "normalize")
  check_given(min_cells = min_cells)
  check_flag(verbose, "verbose")
  kind <- kind_of_systems(objects)
  if (length(reference) != 1L || !reference %in% names(objects)) {
    abort("reference must be one of %s.", quoted(names(objects)))
  }
  if (is.character(orthologs)) orthologs <- normalizePath(orthologs, mustWork = FALSE)
  parts <- lapply(objects, function(object) expression_in(object, kind, normalize, ...))
  genes <- lapply(parts, genes_of)
  values <- list(
    systems = unname(Map(function(name, part, genes) {
      list(name = name, genes = I(genes), cells = I(layer_cells(part)))
    }, names(objects), parts, genes)),
    orthologs = if (is.data.frame(orthologs)) lapply(orthologs, function(x) I(as.character(x))) else orthologs,
    system = system, reference = reference, duplicates = duplicates, normalize = normalize, min_cells = min_cells
  )
  stream <- function(add) {
    for (i in seq_along(parts)) {
      check <- if (normalize) {
        check_counts(parts[[i]], names(objects)[i])
      } else {
        check_log_normalised(parts[[i]], one_level(parts[[i]]))
      }
      stream_blocks(parts[[i]], genes[[i]], function(layer, block) add(i - 1L, block), check$block)
      check$done()
    }
  }
  answer <- call_engine("prepare_systems", values, stream = stream, process = process, verbose = verbose)
  joined_metadata <- join_metadata(parts, system, answer$values$cells)
  assemble(kind, answer, joined_metadata)
}

kind_of_systems <- function(objects) {
  names <- names(objects)
  named <- !is.null(names) && !any(names %in% c("", NA)) && !anyDuplicated(names)
  if (!is.list(objects) || length(objects) < 2L || !named) {
    abort("objects must be a named list of two or more: list(human = ..., mouse = ...).")
  }
  kinds <- vapply(objects, function(object) {
    if (inherits(object, "Seurat")) "Seurat" else if (is(object, "SingleCellExperiment")) "SCE" else "matrix"
  }, "")
  if (length(unique(kinds)) > 1L) {
    abort("objects must all be Seurat objects, all SingleCellExperiments or all matrices; they are %s.", quoted(kinds))
  }
  kinds[[1L]]
}

expression_in <- function(object, kind, normalize, ...) {
  given <- list(...)
  if (kind == "Seurat" && is.null(given[["layer"]])) given$layer <- if (normalize) "counts" else "data"
  if (kind == "SCE" && is.null(given[["assay"]])) given$assay <- if (normalize) "counts" else "logcounts"
  do.call(cells_of, c(list(object), given, .of = "PrepareSystems"))
}

layer_cells <- function(part) unlist(lapply(part$layers, `[[`, "cells"), use.names = FALSE)

one_level <- function(part) factor(rep("all", length(part$cells)))

check_counts <- function(cells, system) {
  block <- function(block, layer, columns) {
    check_finite(block, cells$where, layer$cells[columns])
    if (length(block@x) && (min(block@x) < 0 || any(block@x != floor(block@x)))) {
      abort(
        "%s of system '%s' is not counts: name the counts (assay =, layer =), or pass normalize = FALSE for log-normalised values.", # nolint: line_length_linter.
        sentence(cells$where), system
      )
    }
  }
  list(block = block, done = function() NULL)
}

join_metadata <- function(parts, system, cells) {
  tables <- Map(function(part, name) {
    table <- part$metadata[match(layer_cells(part), part$cells), , drop = FALSE]
    table[[system]] <- rep(name, nrow(table))
    table
  }, parts, names(parts))
  shared <- Reduce(intersect, lapply(tables, colnames))
  joined <- do.call(rbind, c(unname(lapply(tables, function(table) table[shared])), make.row.names = FALSE))
  joined[[system]] <- factor(joined[[system]], names(parts))
  rownames(joined) <- cells
  joined
}

assemble <- function(kind, answer, metadata) {
  genes <- answer$values$genes
  expression <- new_dgCMatrix(answer$arrays, "expression", genes, rownames(metadata))
  counts <- if (!is.null(answer$arrays$counts)) new_dgCMatrix(answer$arrays, "counts", genes, rownames(metadata))
  switch(kind,
    Seurat = assemble_seurat(expression, counts, metadata),
    SCE = SingleCellExperiment::SingleCellExperiment(
      c(if (!is.null(counts)) list(counts = counts), list(logcounts = expression)),
      colData = metadata
    ),
    matrix = list(expression = expression, counts = counts, metadata = metadata)
  )
}

assemble_seurat <- function(expression, counts, metadata) {
  if (is.null(counts)) {
    withr::local_options(Seurat.object.assay.calcn = FALSE) # without counts there are none to sum, only warnings
    return(SeuratObject::CreateSeuratObject(
      SeuratObject::CreateAssay5Object(data = expression), meta.data = metadata
    ))
  }
  object <- SeuratObject::CreateSeuratObject(counts, meta.data = metadata)
  dimnames(expression) <- dimnames(object)
  SeuratObject::SetAssayData(object, layer = "data", new.data = expression)
}
