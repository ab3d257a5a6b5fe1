#' Are the differences between systems substantial?
#'
#' Compares, within each cell type and before any integration, the distances
#' between samples of the same system with those between samples of different
#' systems, and says whether sysVI is needed or a simpler method is likely to do.
#'
#' @details
#' As in the paper, genes are scaled, principal components are computed and then
#' averaged over the cells of each cell type in each sample. A one-sided
#' Mann-Whitney U test asks whether distances within a system are smaller than
#' those between systems; p-values are adjusted over all cell types and systems
#' (Benjamini-Hochberg). Differences count as substantial if, in at least half of
#' the cell types that can be tested, every system has an adjusted p-value below
#' 0.05 and distances between systems at least 1.5 times as large as within it.
#'
#' Samples should be donors or animals: libraries of one donor are so similar that
#' another donor would look like another system. A system needs three samples of a
#' cell type to be tested.
#'
#' @param object A Seurat object, a SingleCellExperiment, or a matrix of genes x
#'   cells of any kind, with log-normalised expression, as in [RunSysVI()].
#' @param system,batch,label Systems, samples and cell types: names of metadata
#'   columns, or vectors named by cell. Cells without a cell type (missing, empty,
#'   `"unknown"`, `"unassigned"` or the like) are left out, with a warning; of systems
#'   and samples no values may be missing.
#' @param metadata Data frame with one row per cell and cell names as row names;
#'   for matrices.
#' @param features Names of the genes to use; `NULL` selects those that are
#'   variable in every system.
#' @param min_cells Minimum number of cells of a cell type in a sample; smaller
#'   groups are left out.
#' @param n_pcs Number of principal components.
#' @param seed Random seed of the PCA, a whole number.
#' @param process,verbose As in [RunSysVI()].
#' @param x A value of `BatchStrength()`.
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `features` on.
#'
#' @return A list of class `SysVIBatchStrength` that holds plain data only:
#'   * `table`: data frame with one row per cell type and system: `label`,
#'     `system`, `n_samples`, number and median of the distances within the system
#'     and to other systems (`n_within`, `n_between`, `median_within`,
#'     `median_between`), their `ratio`, `rank_biserial`, and `u`, `p` and
#'     `p_adjusted` of the test.
#'   * `distances`: data frame with one row per pair of samples: `label`, `kind`
#'     (`"within"` or `"between"`), `system_1`, `batch_1`, `system_2`, `batch_2`,
#'     `distance`.
#'   * `substantial`: `TRUE`, `FALSE`, or `NA` if this cannot be judged.
#'   * `advice`: what to do and why, in a sentence.
#'
#'   `print()` shows advice and table; `plot()` returns a ggplot of the distances.
#'
#' @inherit RunSysVI references
#' @seealso [RunSysVI()], and [EvaluateIntegration()] for the result of an
#'   integration.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 400, n_genes = 150, n_types = 2, n_private = 0, n_samples = 3, seed = 1)
#' x <- log1p(log1p(cells$counts)) # for an example, any log-normalised values will do
#' strength <- BatchStrength(
#'   x, "system", "batch", "cell_type",
#'   metadata = cells$metadata, min_cells = 20, verbose = FALSE
#' )
#' strength
#' if (requireNamespace("ggplot2", quietly = TRUE)) plot(strength)
BatchStrength <- function(object, system, batch, label, ...) UseMethod("BatchStrength")

#' @rdname BatchStrength
#' @export
BatchStrength.default <- function(object, system, batch, label, metadata = NULL, features = NULL, min_cells = 50L,
                                  n_pcs = 15L, seed = 0L, process = c("session", "separate"), verbose = TRUE, ...) {
  rlang::check_dots_empty(call = NULL)
  process <- rlang::arg_match(process)
  check_bool(verbose)
  check_whole_number(min_cells)
  check_whole_number(n_pcs)
  check_whole_number(seed)
  cells <- describe_cells(object, metadata = metadata)
  columns <- describe_columns(cells, system, batch, label)
  all_columns <- list_columns(columns)
  genes <- select_genes(cells, features)
  values <- list(
    genes = I(genes), cells = I(cells$cells), columns = column_headers(all_columns),
    system = columns$system$name, batch = columns$batch$name, label = columns$label$name,
    choose_genes = is.null(features), seed = seed, settings = list(min_cells = min_cells, n_pcs = n_pcs)
  )
  answer <- call_engine(
    "batch_strength", values, c(column_arrays(all_columns), encode_cell_order(cells)),
    stream = stream_expression(cells, genes, columns$system$values), process = process, verbose = verbose
  )
  substantial <- answer$values$substantial
  structure(
    list(
      table = decode_table(answer$values$table, answer$arrays$table),
      distances = decode_table(answer$values$distances, answer$arrays$distances),
      substantial = if (is.null(substantial)) NA else substantial,
      advice = answer$values$advice
    ),
    class = "SysVIBatchStrength"
  )
}

#' @rdname BatchStrength
#' @param assay,layer Assay and layer with the expression, as in [RunSysVI()].
#' @export
BatchStrength.Seurat <- function(object, system, batch, label, ..., assay = NULL, layer = "data") {
  cells <- describe_cells(object, assay = assay, layer = layer)
  BatchStrength.default(cells, system, batch, label, NULL, ...) # NULL: metadata are those of the object
}

#' @rdname BatchStrength
#' @export
BatchStrength.SingleCellExperiment <- function(object, system, batch, label, ..., assay = "logcounts") {
  cells <- describe_cells(object, assay = assay)
  BatchStrength.default(cells, system, batch, label, NULL, ...) # NULL: metadata are those of the object
}

#' @export
print.SysVIBatchStrength <- function(x, ...) {
  cat(strwrap(x$advice), "", sep = "\n")
  print(format(x$table, digits = 3L), row.names = FALSE)
  invisible(x)
}

#' @rdname BatchStrength
#' @export
plot.SysVIBatchStrength <- function(x, ...) {
  rlang::check_installed("ggplot2", "for plot().")
  distances <- x$distances
  if (!nrow(distances)) {
    sysvi_abort(paste(
      "There are no distances to draw: no cell type has two samples with enough cells. A lower {.arg min_cells} uses",
      "more samples."
    ))
  }
  kinds <- c(within = "within one system", between = "between systems")
  distances$kind <- factor(kinds[distances$kind], kinds)
  medians <- stats::aggregate(distance ~ label + kind, distances, stats::median)
  between <- medians[medians$kind == kinds[["between"]], ]
  # rows from bottom to top: the cell type with the largest distance between systems is on top
  labels <- union(setdiff(medians$label, between$label), between$label[order(between$distance)])
  row_height <- function(table) match(table$label, labels) + ifelse(table$kind == kinds[["within"]], -0.17, 0.17)
  distances$height <- row_height(distances)
  medians$height <- row_height(medians)
  ggplot2::ggplot(distances, ggplot2::aes(.data$distance, .data$height, colour = .data$kind)) +
    ggplot2::geom_point(
      position = ggplot2::position_jitter(width = 0, height = 0.1, seed = 0L), alpha = 0.6, size = 1.5
    ) +
    ggplot2::geom_point(data = medians, shape = "|", size = 6, show.legend = FALSE) +
    ggplot2::scale_y_continuous(breaks = seq_along(labels), labels = labels, minor_breaks = NULL, expand = c(0, 0.5)) +
    ggplot2::scale_colour_manual(values = setNames(c("#4c78a8", "#e45756"), kinds), name = NULL) +
    ggplot2::expand_limits(x = 0) +
    ggplot2::labs(x = "distance between mean profiles of samples (bar: median)", y = NULL) +
    ggplot2::theme_minimal() +
    ggplot2::theme(legend.position = "top")
}
