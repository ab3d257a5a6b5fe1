#' Expression that differs between groups of cells according to a model
#'
#' Compares the expression that a model decodes for two groups of cells, by sampling their
#' embeddings: log fold change, probability of a change beyond a threshold, and genes that
#' are called at an expected false discovery rate. The columns are those of scvi-tools.
#'
#' @section Cells are not replicates:
#' All probabilities are about the cells at hand and the model of them: more cells of the
#' same donors make them more extreme, and what differs between donors appears as a
#' difference of the groups. Where genes are to be reported, test over donors, with
#' [CompareSystems()] between systems, or with limma, edgeR or DESeq2 on sums of the
#' counts of each donor (pseudobulk).
#'
#' @details
#' Cells of each group are drawn at random, and of each a sample of its embedding, which
#' is decoded; of an ensemble, the mean over what the members decode.
#'
#' The cells may be counts or log-normalised (logarithm of 1 + value, natural or to base 2), as in
#' [MapSysVI()]. The model must know their systems and batches.
#'
#' @inheritParams CompareSystems
#' @param groups The groups: name of a metadata column, or a vector named by cell. Cells
#'   without a value are in no group.
#' @param group1 First group, or several, each of which is compared; `NULL`: each group.
#' @param group2 Second group; `NULL`: all cells of the other groups.
#' @param mode `"change"`: the probability that the log2 fold change exceeds `delta`;
#'   `"vanilla"`: that of any rise.
#' @param delta Log2 fold change, above 0 or 0, that counts as a change.
#' @param batch_correction Decode all cells alike: the mean over systems, in each of them
#'   over its batches. `FALSE`: each cell in its own system and batch.
#' @param fdr_target Expected false discovery rate of the genes that are called.
#' @param n_samples Number of samples of each group.
#' @param seed Random seed of the samples; `NULL`: the model's.
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `group1` on.
#'
#' @return A data frame with one row for each gene, one comparison after another, the
#'   most probable change first.
#'   * `gene`.
#'   * `proba_de`, `proba_not_de`, `bayes_factor`: probability of a change beyond `delta`,
#'     of none, and the natural logarithm of their ratio.
#'   * `scale1`, `scale2`: mean decoded expression of both groups, log-normalised.
#'   * `pseudocounts`, `delta`: added to normalised expression before ratios are taken (1);
#'     as given.
#'   * `lfc_mean`, `lfc_median`, `lfc_std`, `lfc_min`, `lfc_max`: log2 fold change of group
#'     1 over group 2 between pairs of cells.
#'   * `raw_mean1`, `raw_mean2`, `non_zeros_proportion1`, `non_zeros_proportion2`,
#'     `raw_normalized_mean1`, `raw_normalized_mean2`: of the measured expression, the mean
#'     of log-normalised values, the share of cells above 0, and the mean of normalised
#'     values.
#'   * `is_de_fdr_0.05`: whether a gene is called, named by `fdr_target`.
#'   * `comparison`, `group1`, `group2`: the groups.
#'
#'   With `mode = "vanilla"`, `proba_m1`, `proba_m2` (probabilities of higher and of lower
#'   expression in group 1) and their `bayes_factor` take the place of the columns on the
#'   change, and no genes are called.
#'
#' @section Errors:
#' An error is one sentence that says what is wrong and what to do: for systems or batches
#' that the model does not know, or groups that are unknown. Groups whose cells are all of
#' one batch are named in a warning.
#'
#' @references Lopez et al., Deep generative modeling for single-cell transcriptomics,
#'   Nature Methods (2018). Boyeau et al., An empirical Bayes method for differential
#'   expression analysis of single cells with deep generative models, PNAS (2023). Squair
#'   et al., Confronting false discoveries in single-cell differential expression, Nature
#'   Communications (2021).
#' @seealso [CompareSystems()], which tests over donors.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, n_types = 3, n_private = 0, n_samples = 2, seed = 1)
#' x <- log1p(cells$counts) # for an example; normalise your own cells first
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, members = 2, max_epochs = 2, verbose = FALSE)
#' table <- DifferentialExpressionSysVI(
#'   x, "cell_type", z, group1 = "type1", metadata = cells$metadata, n_samples = 500, verbose = FALSE
#' )
#' head(table[, c("gene", "lfc_mean", "proba_de")])
DifferentialExpressionSysVI <- function(object, groups, reference = object, ...) {
  UseMethod("DifferentialExpressionSysVI")
}

#' @rdname DifferentialExpressionSysVI
#' @export
DifferentialExpressionSysVI.default <- function(object, groups, reference = object, group1 = NULL, group2 = NULL,
                                                mode = c("change", "vanilla"), delta = 0.25,
                                                batch_correction = FALSE, fdr_target = 0.05, n_samples = 5000L,
                                                seed = NULL, system = NULL, batch = NULL, metadata = NULL,
                                                reference_name = NULL, device = "auto",
                                                process = c("session", "separate"), verbose = TRUE, ...) {
  rlang::check_dots_empty(call = NULL)
  process <- rlang::arg_match(process)
  mode <- rlang::arg_match(mode)
  if (!is.null(group1) && (!is.character(group1) || anyNA(group1))) {
    sysvi_abort("{.arg group1} must be a character vector of names of groups.")
  }
  if (!is.null(group2)) check_string(group2)
  check_number(delta)
  check_number(fdr_target)
  check_bool(batch_correction)
  check_whole_number(n_samples)
  check_whole_number(seed, null_allowed = TRUE)
  check_string(device)
  check_bool(verbose)
  model <- describe_reference(reference, NULL, NULL, reference_name, "reference_name")$model
  cells <- describe_cells(object, metadata = metadata)
  columns <- describe_query_columns(cells, model, system, batch)
  groups <- as_categorical(read_column(groups, "groups", cells, complete = FALSE))
  if (!groups$name %in% column_names(columns)) columns <- c(columns, list(groups))
  known <- select_genes(cells)
  values <- list(
    genes = I(known), cells = I(cells$cells), columns = column_headers(columns), device = device,
    groups = list(groupby = groups$name, group1 = if (!is.null(group1)) I(group1), group2 = group2),
    settings = list(
      mode = mode, delta = delta, batch_correction = batch_correction, fdr_target = fdr_target,
      n_samples_overall = n_samples, seed = seed
    )
  )
  answer <- call_engine(
    "differential_expression", values,
    c(column_arrays(columns), encode_cell_order(cells), list(model = model$bytes)),
    stream = stream_expression(cells, known), process = process, verbose = verbose
  )
  table <- decode_table(answer$values$table, answer$arrays$table)
  called <- startsWith(names(table), "is_de_fdr_")
  table[called] <- lapply(table[called], as.logical)
  table
}

#' @rdname DifferentialExpressionSysVI
#' @export
DifferentialExpressionSysVI.Seurat <- function(object, groups, reference = object, ..., assay = NULL, layer = NULL) {
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  if (is.null(layer)) layer <- default_layer(object, assay)
  force(reference)
  DifferentialExpressionSysVI.default(describe_cells(object, assay = assay, layer = layer), groups, reference, ...)
}

#' @rdname DifferentialExpressionSysVI
#' @export
DifferentialExpressionSysVI.SingleCellExperiment <- function(object, groups, reference = object, ..., assay = NULL) {
  if (is.null(assay)) {
    assay <- if ("logcounts" %in% SummarizedExperiment::assayNames(object)) "logcounts" else "counts"
  }
  force(reference)
  DifferentialExpressionSysVI.default(describe_cells(object, assay = assay), groups, reference, ...)
}
