#' Genes that differ between systems in one label, and conserved markers
#'
#' For each cell type or state that two systems share, finds genes that differ between
#' the systems beyond what differs between them in all labels, and genes that mark the
#' label in both systems. Donors are the replicates.
#'
#' @details
#' The cells of a label in a donor become one profile, the mean of their normalised
#' expression, and p-values come from the differences between donors: a t-test with
#' variances that are moderated over genes, as in limma. The measured cells are tested,
#' never decoded ones.
#'
#' A gene's effect is its difference between the systems in the label, minus its median
#' difference in the other labels. Its marker effect in a system is its difference
#' between the label and the mean of the other labels. The page "compare-systems" of the
#' documentation measures how often the tests are right, and where they fail.
#'
#' The cells may be counts or log-normalised (logarithm of 1 + value, natural or to base 2), as in
#' [MapSysVI()]. The model must know their systems and batches.
#'
#' @inheritParams TranslateExpression
#' @param label Cell types, or finer states: name of a metadata column, or a vector named
#'   by cell. Cells without a label (missing, empty, `"unknown"`, `"unassigned"` or the
#'   like) are left out, with a warning.
#' @param reference Where the model is: an object with the result of [RunSysVI()],
#'   [TuneSysVI()] or [MapSysVI()] (Seurat, SingleCellExperiment or embedding), a model
#'   of [LoadSysVI()], or the folder of a saved model; by default `object` itself. The
#'   genes of the model are compared.
#' @param systems Names of the systems to compare, two or more; `NULL`: all of the model.
#'   Of more than two, each pair is compared.
#' @param donor The replicates: name of a metadata column, or a vector named by cell;
#'   `NULL`: the batches of the model. Give it if a donor has several batches.
#' @param min_cells Smallest number of cells of a label in a donor that make a profile.
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `systems` on.
#'
#' @return A data frame with one row for each label, pair of systems and gene; within a
#'   label, the smallest p-value first.
#'   * `label`, `gene`, `system_1`, `system_2`.
#'   * `n_donors_1`, `n_donors_2`: number of donors of each system that take part.
#'   * `n_other_labels`: number of other labels with which the label is compared.
#'   * `effect`: log2 fold change of system 2 over system 1 in this label, beyond that in
#'     the others.
#'   * `model_effect`: the same, of the expression that the model decodes for each cell
#'     without noise.
#'   * `p`, `fdr`: two-sided p-value of the effect, and its false discovery rate over the
#'     genes of this label and pair (Benjamini-Hochberg). `NA` for genes with too few
#'     counts, and with fewer than two donors of a system.
#'   * `marker_1`, `marker_2`: log2 fold change of the label over the other labels in each
#'     system.
#'   * `marker_p`, `marker_fdr`: p-value of the gene being a marker in both systems, the
#'     larger of both one-sided ones, and its false discovery rate: a conserved marker has
#'     a small one.
#'
#' @section Errors:
#' An error is one sentence that says what is wrong and what to do: for systems or
#' batches that the model does not know, a model without batches, or systems that do not
#' share two labels with enough cells. Labels that cannot be compared, or not tested, are
#' named in warnings.
#'
#' @references Hrovatin, Moinfar et al., Integrating single-cell RNA-seq datasets with
#'   substantial batch effects, BMC Genomics (2025). Squair et al., Confronting false
#'   discoveries in single-cell differential expression, Nature Communications (2021).
#'   Smyth, Linear models and empirical Bayes methods for assessing differential
#'   expression in microarray experiments, Statistical Applications in Genetics and
#'   Molecular Biology (2004).
#' @seealso [TranslateExpression()] for the decoded expression itself.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 600, n_genes = 150, n_types = 3, n_private = 0, n_samples = 3, seed = 1)
#' x <- log1p(cells$counts) # for an example; normalise your own cells first
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, members = 2, max_epochs = 2, verbose = FALSE)
#' table <- CompareSystems(x, "cell_type", z, metadata = cells$metadata, verbose = FALSE)
#' head(table[which(table$fdr < 0.05), c("label", "gene", "effect", "fdr")])
CompareSystems <- function(object, label, reference = object, ...) UseMethod("CompareSystems")

#' @rdname CompareSystems
#' @export
CompareSystems.default <- function(object, label, reference = object, systems = NULL, donor = NULL, min_cells = 10L,
                                   system = NULL, batch = NULL, metadata = NULL, reference_name = NULL,
                                   device = "auto", process = c("session", "separate"), verbose = TRUE, ...) {
  rlang::check_dots_empty(call = NULL)
  process <- rlang::arg_match(process)
  if (!is.null(systems) && (!is.character(systems) || anyNA(systems))) {
    sysvi_abort("{.arg systems} must be a character vector of names of systems.")
  }
  check_whole_number(min_cells)
  check_string(device)
  check_bool(verbose)
  model <- describe_reference(reference, NULL, NULL, reference_name, "reference_name")$model
  cells <- describe_cells(object, metadata = metadata)
  columns <- describe_query_columns(cells, model, system, batch)
  label <- as_categorical(read_column(label, "label", cells, complete = FALSE))
  if (!is.null(donor)) donor <- as_categorical(read_column(donor, "donor", cells))
  for (column in list(label, donor)) {
    if (!is.null(column) && !column$name %in% column_names(columns)) columns <- c(columns, list(column))
  }
  known <- select_genes(cells)
  values <- list(
    genes = I(known), cells = I(cells$cells), columns = column_headers(columns), device = device, label = label$name,
    compared = if (!is.null(systems)) I(systems), donor = donor$name, min_cells = min_cells
  )
  answer <- call_engine(
    "compare_systems", values, c(column_arrays(columns), encode_cell_order(cells), list(model = model$bytes)),
    stream = stream_expression(cells, known), process = process, verbose = verbose
  )
  decode_table(answer$values$table, answer$arrays$table)
}

#' @rdname CompareSystems
#' @param assay Name of the assay with the expression; by default the default assay of
#'   a Seurat object, and `"logcounts"` of a SingleCellExperiment, or `"counts"` if
#'   there are no `"logcounts"`.
#' @param layer Name of the layer with the expression, or of several, as in
#'   [RunSysVI()]; by default `"data"`, or `"counts"` if there is no such layer.
#' @export
CompareSystems.Seurat <- function(object, label, reference = object, ..., assay = NULL, layer = NULL) {
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  if (is.null(layer)) layer <- default_layer(object, assay)
  force(reference)
  CompareSystems.default(describe_cells(object, assay = assay, layer = layer), label, reference, ...)
}

#' @rdname CompareSystems
#' @export
CompareSystems.SingleCellExperiment <- function(object, label, reference = object, ..., assay = NULL) {
  if (is.null(assay)) {
    assay <- if ("logcounts" %in% SummarizedExperiment::assayNames(object)) "logcounts" else "counts"
  }
  force(reference)
  CompareSystems.default(describe_cells(object, assay = assay), label, reference, ...)
}
