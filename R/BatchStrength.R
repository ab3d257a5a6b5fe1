#' Are the differences between systems substantial?
#'
#' Asked before integrating: compares, cell type by cell type, the distances
#' between samples of one system with those between samples of different systems,
#' and says whether sysVI is needed or a simpler method may do.
#'
#' @details
#' As in the paper: genes are scaled, principal components taken and averaged over
#' the cells of each type in each sample; a one-sided Mann-Whitney U test asks
#' whether distances within a system are smaller, corrected over all types and
#' systems (Benjamini-Hochberg). Differences count as substantial if, in at least
#' half of the types that can be tested, each system has an adjusted p below 0.05
#' and distances between systems are at least 1.5 times as large.
#'
#' Samples are donors or animals: libraries of one donor are so alike that the
#' next donor looks like another system. A system needs three samples of a type.
#'
#' @param object A Seurat object, a SingleCellExperiment, or a matrix of genes x
#'   cells of any kind, with log-normalised expression, as in [RunSysVI()].
#' @param system,batch,label Systems, samples and cell types: names of columns of
#'   the metadata, or vectors named by cell. No values may be missing.
#' @param metadata Data frame with one row a cell, row names the cells' names.
#' @param features Genes to use; `NULL`: those variable in every system.
#' @param min_cells Fewest cells of a type in a sample; smaller groups do not
#'   count.
#' @param n_pcs Principal components.
#' @param seed Whole number, of the PCA.
#' @param process,verbose As in [RunSysVI()].
#' @param x What `BatchStrength()` returned.
#' @param ... For the methods, the arguments of the default method from
#'   `features` on.
#'
#' @return List of class `SysVIBatchStrength`, plain data throughout:
#'   * `table`: data frame with a row a cell type and system: `label`, `system`,
#'     `n_samples`, number and median of the distances within the system and to
#'     others (`n_within`, `n_between`, `median_within`, `median_between`), their
#'     `ratio`, `rank_biserial`, and the test's `u`, `p` and `p_adjusted`.
#'   * `distances`: data frame with a row a pair of samples: `label`, `kind`
#'     (`"within"` or `"between"`), `system_1`, `batch_1`, `system_2`, `batch_2`,
#'     `distance`.
#'   * `substantial`: `TRUE`, `FALSE`, or `NA` where it cannot be judged.
#'   * `advice`: what to do, and why, in a sentence.
#'
#'   `print()` shows advice and table; `plot()` returns a ggplot of the
#'   distances.
#'
#' @inherit RunSysVI references
#' @seealso [RunSysVI()], and [EvaluateIntegration()] for the question after.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 400, n_genes = 150, n_types = 2, n_private = 0, n_samples = 3, seed = 1)
#' x <- log1p(log1p(cells$counts)) # any log-normalised values will do for an example
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
  strength_of(
    cells_of(object, metadata = metadata), system, batch, label, features, min_cells, n_pcs, seed, process, verbose,
    ...
  )
}

#' @rdname BatchStrength
#' @param assay,layer Where the expression is, as in [RunSysVI()].
#' @export
BatchStrength.Seurat <- function(object, system, batch, label, ..., assay = NULL, layer = "data") {
  strength_of(cells_of(object, assay = assay, layer = layer), system, batch, label, ...)
}

#' @rdname BatchStrength
#' @export
BatchStrength.SingleCellExperiment <- function(object, system, batch, label, ..., assay = "logcounts") {
  strength_of(cells_of(object, assay = assay), system, batch, label, ...)
}

strength_of <- function(cells, system, batch, label, features = NULL, min_cells = 50L, n_pcs = 15L, seed = 0L,
                        process = c("session", "separate"), verbose = TRUE, ...) {
  no_dots(..., .of = "BatchStrength", .rarer = "")
  process <- one_of(process, c("session", "separate"), "process")
  check_flag(verbose, "verbose")
  check_given(min_cells = min_cells, n_pcs = n_pcs, seed = seed)
  effects <- grouping_columns(system, batch, label, cells, complete_label = TRUE)
  genes <- genes_of(cells, features)
  values <- list(
    genes = I(genes), cells = I(cells$cells), columns = column_values(unname(effects)),
    system = effects$system$name, batch = effects$batch$name, label = effects$label$name,
    choose_genes = is.null(features), seed = seed, settings = list(min_cells = min_cells, n_pcs = n_pcs)
  )
  answer <- call_engine(
    "batch_strength", values, c(column_arrays(unname(effects)), order_array(cells)),
    stream = checked_stream(cells, genes, effects$system$values), process = process, verbose = verbose
  )
  substantial <- answer$values$substantial
  structure(
    list(
      table = read_table(answer$values$table, answer$arrays$table),
      distances = read_table(answer$values$distances, answer$arrays$distances),
      substantial = if (is.null(substantial)) NA else substantial,
      advice = answer$values$advice
    ),
    class = "SysVIBatchStrength"
  )
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
  need_package("ggplot2", "plot()")
  distances <- x$distances
  if (!nrow(distances)) abort("There are no two samples of one cell type, so there are no distances to draw.")
  kinds <- c(within = "within one system", between = "between systems")
  distances$kind <- factor(kinds[distances$kind], kinds)
  medians <- stats::aggregate(distance ~ label + kind, distances, stats::median)
  between <- medians[medians$kind == kinds[["between"]], ]
  labels <- union(setdiff(medians$label, between$label), between$label[order(between$distance)]) # strongest on top
  height <- function(table) match(table$label, labels) + ifelse(table$kind == kinds[["within"]], -0.17, 0.17)
  distances$height <- height(distances)
  medians$height <- height(medians)
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
