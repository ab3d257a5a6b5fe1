#' Expression of cells in another system, or without noise
#'
#' Decodes the expression that cells would have in another system, such as human
#' cells in mouse, or, without `to_system`, that they have in their own system
#' without noise.
#'
#' @details
#' Each cell is embedded under its own system and batch, and the mean of its embedding
#' is decoded under those of the target. Of an ensemble, the expression is the mean
#' over its models, each of which decodes its own embedding.
#'
#' The values are expectations of the model on the scale of its input, log-normalised
#' expression: no counts, and smoother than measured cells, since noise is left out.
#' Values that would be below 0 are 0. Compare means of groups of cells; tests that take
#' such values for measured cells find far too much. What a system has in no cell that
#' the model has seen cannot be translated to it. The page "translate" of the
#' documentation measures what is right and what is not.
#'
#' The cells may be counts or log-normalised, as in [MapSysVI()]. The model must know
#' their systems and batches: to translate cells of new ones, map them with
#' [MapSysVI()], and give its result as `reference`.
#'
#' @inheritParams MapSysVI
#' @param object Cells: a Seurat object, a SingleCellExperiment, or a matrix of
#'   genes x cells of any kind.
#' @param reference Where the model is: an object with the result of [RunSysVI()],
#'   [TuneSysVI()] or [MapSysVI()] (Seurat, SingleCellExperiment or embedding), a model
#'   of [LoadSysVI()], or the folder of a saved model; by default `object` itself.
#' @param to_system Name of the target system; `NULL`: each cell stays in its own.
#' @param to_batch Batch under which cells are decoded. `NULL`: the cell's own batch, if
#'   the target system has cells of it, and otherwise as `"average"`: the mean over all
#'   batches of the target system, weighted by their number of cells. Or the name of one
#'   batch. All further covariates stay those of the cell.
#' @param genes Names of the genes to decode, in the order of the result; `NULL`: all
#'   genes of the model.
#' @param system,batch Systems and batches of the cells: name of a metadata column, or a
#'   vector named by cell; by default the columns that have the names of those of the
#'   model.
#' @param metadata Data frame with one row per cell and cell names as row names; for a
#'   matrix.
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `to_system` on.
#'
#' @return For a matrix, a dense matrix of genes x cells. For a Seurat object, the object
#'   with it as the layer `"data"` of a new assay. For a SingleCellExperiment, the object
#'   with it as the assay `"logcounts"` of a new `altExp()`, since it has the genes of the
#'   model only.
#'
#' @section Errors:
#' An error is one sentence that says what is wrong and what to do: for a target, or
#' cells, whose system or batch the model does not know, genes that it lacks, scaled
#' values, or a result that does not fit into memory.
#'
#' @inherit RunSysVI references
#' @seealso [MapSysVI()] to embed new cells.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # for an example, any log-normalised values will do
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, members = 2, max_epochs = 2, verbose = FALSE)
#' there <- TranslateExpression(x, z, to_system = "system2", metadata = cells$metadata, verbose = FALSE)
#' dim(there)
TranslateExpression <- function(object, reference = object, ...) UseMethod("TranslateExpression")

#' @rdname TranslateExpression
#' @export
TranslateExpression.default <- function(object, reference = object, to_system = NULL, to_batch = NULL, genes = NULL,
                                        system = NULL, batch = NULL, metadata = NULL, reference_name = NULL,
                                        device = "auto", process = c("session", "separate"), verbose = TRUE, ...) {
  rlang::check_dots_empty(call = NULL)
  process <- rlang::arg_match(process)
  if (!is.null(to_system)) check_string(to_system)
  if (!is.null(to_batch)) check_string(to_batch)
  if (!is.null(genes) && (!is.character(genes) || anyNA(genes))) {
    sysvi_abort("{.arg genes} must be a character vector of gene names.")
  }
  check_string(device)
  check_bool(verbose)
  model <- describe_reference(reference, NULL, NULL, reference_name, "reference_name")$model
  cells <- describe_cells(object, metadata = metadata)
  columns <- describe_query_columns(cells, model, system, batch)
  known <- select_genes(cells)
  values <- list(
    genes = I(known), cells = I(cells$cells), columns = column_headers(columns), device = device,
    to_system = to_system, to_batch = to_batch, wanted = if (!is.null(genes)) I(genes)
  )
  answer <- call_engine(
    "translate", values, c(column_arrays(columns), encode_cell_order(cells), list(model = model$bytes)),
    stream = stream_expression(cells, known), process = process, verbose = verbose
  )
  translated <- t(answer$arrays$expression)
  dimnames(translated) <- list(as.character(answer$values$genes), cells$cells)
  translated
}

#' @rdname TranslateExpression
#' @param assay Name of the assay with the expression; by default the default assay of
#'   a Seurat object, and `"logcounts"` of a SingleCellExperiment, or `"counts"` if
#'   there are no `"logcounts"`.
#' @param layer Name of the layer with the expression, or of several, as in
#'   [RunSysVI()]; by default `"data"`, or `"counts"` if there is no such layer.
#' @param new.assay.name Name of the new assay of a Seurat object.
#' @export
TranslateExpression.Seurat <- function(object, reference = object, ..., assay = NULL, layer = NULL,
                                       new.assay.name = "translated") {
  check_string(new.assay.name)
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  if (is.null(layer)) layer <- default_layer(object, assay)
  force(reference)
  check_new_name(new.assay.name, assay, "new.assay.name")
  translated <- TranslateExpression.default(describe_cells(object, assay = assay, layer = layer), reference, ...)
  rlang::local_options(Seurat.object.assay.calcn = FALSE) # there are no counts to sum
  object[[new.assay.name]] <- SeuratObject::CreateAssayObject(data = translated) # which stays dense
  object
}

#' @rdname TranslateExpression
#' @param name Name of the new `altExp()` of a SingleCellExperiment.
#' @export
TranslateExpression.SingleCellExperiment <- function(object, reference = object, ..., assay = NULL,
                                                     name = "translated") {
  check_string(name)
  if (is.null(assay)) {
    assay <- if ("logcounts" %in% SummarizedExperiment::assayNames(object)) "logcounts" else "counts"
  }
  force(reference)
  translated <- TranslateExpression.default(describe_cells(object, assay = assay), reference, ...)
  SingleCellExperiment::altExp(object, name) <- SingleCellExperiment::SingleCellExperiment(
    list(logcounts = translated)
  )
  object
}

# The assay with the result must not replace the one that it was made of.
check_new_name <- function(name, assay, argument) {
  if (identical(name, assay)) {
    sysvi_abort("{.arg {argument}} is '{name}', the assay with the expression: choose another name.")
  }
}
