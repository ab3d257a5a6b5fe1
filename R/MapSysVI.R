#' Map new cells onto a trained model
#'
#' Embeds new cells, the query, in the space of a model's own cells, its reference,
#' which stay where they are. With `label`, the query gets the labels of the
#' reference, each with a confidence, and `"unknown"` where the reference has none
#' for it.
#'
#' @details
#' Cells of systems and batches that the model knows are encoded. A new batch, or a
#' new system (another species, protocol or tissue), gets weights of its own, which
#' are trained on the query; all other weights stay. Names mean the same in both: a
#' batch of the query with the name of one of the reference is taken as this batch.
#' A message says which systems and batches are known and which are new. A new system
#' needs at least 10 cells. New donors are mapped as well as if all cells had been
#' trained on; a new system is less mixed with the reference. If you have the cells
#' of the reference, integrate all of them with [RunSysVI()] instead.
#'
#' The query may be counts, which are recognised and normalised as those of the
#' reference were, or log-normalised. How a reference was normalised is known if it
#' had all genes, over which its cells have one total, when it was trained; otherwise
#' counts are normalised to 10,000 per cell, with a warning. Genes may be in any
#' order, and further ones are not used; versions of Ensembl identifiers are
#' disregarded, and so is the case of letters, with a warning. Genes that the query
#' lacks get the expression that the model decodes; more than a tenth of them are
#' warned about, more than half are refused. The engine holds the values of all genes
#' of the query in memory, 8 bytes for each that is not zero.
#'
#' Labels come from the nearest cells of the reference in the embedding. The
#' *confidence* of a label is the probability that it is right if the reference has
#' the cell's type, calibrated on cells of the reference that are labelled by other
#' batches. The *novelty* is the distance to the reference cells of this label,
#' relative to that which 5 % of the reference's own cells exceed. A cell is called
#' `"unknown"` if its novelty is above 1 or its confidence below 0.5: the reference
#' lacks its type, or it lies between types. Labels of the query are not used. The
#' systems and batches of the reference are the columns of its metadata with the names
#' that the model has; without them, confidences are too high.
#'
#' Ctrl-C or Esc ends the training of new weights after the current step, with a
#' warning.
#'
#' @inheritParams RunSysVI
#' @param object New cells: a Seurat object, a SingleCellExperiment, or a matrix of
#'   genes x cells of any kind.
#' @param reference What to map onto: an object with the result of [RunSysVI()] or
#'   [TuneSysVI()] (Seurat, SingleCellExperiment or embedding), a model of
#'   [LoadSysVI()], or the folder of a saved model or of a reference that
#'   [SaveReferenceSysVI()], or `sysvi.save_reference` in Python, wrote. Labels need
#'   an object or such a reference.
#' @param label Labels of the reference: name of a column of its metadata, or a vector
#'   named by its cells. Unlabelled cells (missing, empty, `"unknown"`,
#'   `"unassigned"` or the like) are left out. `NULL`: no labels.
#' @param system,batch Systems and batches of the query: name of a metadata column, or
#'   a vector named by cell; by default the columns that have the names of those of
#'   the model. Further covariates of the model are read from the metadata under
#'   their names.
#' @param metadata,reference_metadata Data frame with one row per cell and cell names
#'   as row names; for a query that is a matrix, and for a reference that is an
#'   embedding.
#' @param reference_name Name of the reduction or reducedDim of `reference` with the
#'   model; `NULL` if there is only one.
#' @param orthologs Data frame with pairs of gene names, or path of a `.csv` or
#'   tab-separated file with a header, if the genes of the query are those of another
#'   species than the model's.
#' @param fractional_counts `TRUE` if values with fractions are counts too, as in
#'   [PrepareSystems()].
#' @param max_epochs Number of passes over the query, if there are new systems or
#'   batches; `NULL` chooses it from the number of cells.
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `system` on.
#'
#' @return The object as [RunSysVI()] returns it, without support: a Seurat object
#'   with a reduction, a SingleCellExperiment with a reducedDim, or, for a matrix, a
#'   matrix of cells x latent dimensions. With it are stored:
#'   * the model with the weights of new systems and batches, which embeds further
#'     cells of them, in the places that [RunSysVI()] names;
#'   * with `label = "cell_type"`, the metadata columns `cell_type_transferred` (a
#'     factor), `cell_type_confidence` and `cell_type_novelty`; for a matrix, a
#'     data.frame of them in `attr(x, "labels")`;
#'   * the names of the model's genes that the query lacks, in
#'     `Misc(object[["sysvi"]], "missing_genes")`,
#'     `metadata(object)[["sysVI_missing_genes"]]` or `attr(x, "missing_genes")`.
#'
#' @section Errors:
#' An error is one sentence that says what is wrong and what to do: for columns that
#' are absent or have missing values, more than half of the genes missing, scaled
#' values, a new system of fewer than 10 cells, or a reference without model or labels.
#'
#' @references
#' Lotfollahi, Naghipourfar, Luecken and others (2022). Mapping single-cell data to
#' reference atlases by transfer learning. Nature Biotechnology 40, 121-130.
#' \doi{10.1038/s41587-021-01001-7}
#'
#' @seealso [predict()][predict.SysVIModel] to encode log-normalised cells of known
#'   systems and batches.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # for an example, any log-normalised values will do
#' is_new <- cells$metadata$batch == cells$metadata$batch[1]
#' reference <- RunSysVI(
#'   x[, !is_new], "system", "batch",
#'   metadata = cells$metadata, members = 2, max_epochs = 2, verbose = FALSE
#' )
#' z <- MapSysVI(
#'   x[, is_new], reference, "cell_type",
#'   metadata = cells$metadata, reference_metadata = cells$metadata, max_epochs = 2, verbose = FALSE
#' )
#' dim(z)
#' head(attr(z, "labels"), 3)
MapSysVI <- function(object, reference, label = NULL, ...) UseMethod("MapSysVI")

#' @rdname MapSysVI
#' @export
MapSysVI.default <- function(object, reference, label = NULL, system = NULL, batch = NULL, metadata = NULL,
                             reference_metadata = NULL, reference_name = NULL, orthologs = NULL,
                             fractional_counts = FALSE, max_epochs = NULL, device = "auto", seed = 0L,
                             process = c("session", "separate"), verbose = TRUE, ...) {
  rlang::check_dots_empty(call = NULL)
  process <- rlang::arg_match(process)
  check_bool(fractional_counts)
  check_whole_number(max_epochs, null_allowed = TRUE)
  check_string(device)
  check_whole_number(seed)
  check_bool(verbose)
  reference <- describe_reference(reference, label, reference_metadata, reference_name, "reference_name")
  model <- reference$model
  cells <- describe_cells(object, metadata = metadata)
  columns <- describe_query_columns(cells, model, system, batch)
  genes <- select_genes(cells)
  values <- list(
    genes = I(genes), cells = I(cells$cells), columns = column_headers(columns),
    orthologs = encode_orthologs(orthologs), fractional_counts = fractional_counts, max_epochs = max_epochs,
    device = device, seed = seed, labels_from = reference$labels_from
  )
  arrays <- c(column_arrays(columns), encode_cell_order(cells), list(model = model$bytes), reference$arrays)
  answer <- call_engine(
    "map", values, arrays,
    stream = stream_expression(cells, genes), process = process, verbose = verbose
  )
  extended <- read_model(as.raw(answer$arrays$model))
  if (extended$status == "interrupted" && model$status != "interrupted") {
    sysvi_warn("Training was interrupted: the weights of new systems and batches may lack training.")
  }
  structure(
    name_embedding(answer$arrays$embedding, cells$cells),
    sysVI = extended,
    missing_genes = as.character(answer$values$missing_genes),
    labels = read_labels(answer, cells$cells, reference$labels_from$label)
  )
}

#' @rdname MapSysVI
#' @param assay Name of the assay with the expression; by default the default assay of
#'   a Seurat object, and `"logcounts"` of a SingleCellExperiment, or `"counts"` if
#'   there are no `"logcounts"`.
#' @param layer Name of the layer with the expression, or of several, as in
#'   [RunSysVI()]; by default `"data"`, or `"counts"` if there is no such layer.
#' @export
MapSysVI.Seurat <- function(object, reference, label = NULL, ..., assay = NULL, layer = NULL,
                            reduction.name = "sysvi", reduction.key = "sysvi_") {
  check_string(reduction.name)
  check_string(reduction.key)
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  if (is.null(layer)) layer <- default_layer(object, assay)
  z <- MapSysVI.default(describe_cells(object, assay = assay, layer = layer), reference, label, ...)
  labels <- attr(z, "labels")
  attr(z, "labels") <- NULL # they become columns of the metadata instead
  object <- add_reduction(object, z, reduction.name, assay, reduction.key)
  for (name in names(labels)) object[[name]] <- labels[name]
  object
}

#' @rdname MapSysVI
#' @export
MapSysVI.SingleCellExperiment <- function(object, reference, label = NULL, ..., assay = NULL, name = "sysVI") {
  check_string(name)
  if (is.null(assay)) {
    assay <- if ("logcounts" %in% SummarizedExperiment::assayNames(object)) "logcounts" else "counts"
  }
  z <- MapSysVI.default(describe_cells(object, assay = assay), reference, label, ...)
  object <- add_reduced_dim(object, z, name)
  labels <- attr(z, "labels")
  for (column in names(labels)) SummarizedExperiment::colData(object)[[column]] <- labels[[column]]
  object
}

# Log-normalised expression if an assay has some, otherwise counts.
default_layer <- function(object, assay) {
  if (!assay %in% SeuratObject::Assays(object)) {
    return("data") # describe_cells() says that there is no such assay
  }
  layers <- sub("\\..*", "", SeuratObject::Layers(object[[assay]])) # "data.human" -> "data"
  if ("counts" %in% layers && !"data" %in% layers) "counts" else "data"
}

# A model with the labels of its cells: list(model, labels_from, arrays). `labels_from`
# tells the engine where they are: in the folder of a reference, or in `arrays`; it is
# NULL without `label`. `argument` is that which gives `name`.
describe_reference <- function(reference, label, metadata, name, argument) {
  if (rlang::is_string(reference)) {
    return(list(model = LoadSysVI(reference), labels_from = if (!is.null(label)) find_labels(reference, label)))
  }
  if (inherits(reference, "SysVIModel")) {
    if (!is.null(label)) sysvi_abort("A model has no labels: {labels_remedy}.")
    return(list(model = reference))
  }
  models <- find_results(reference, "sysVI", "SysVIModel")
  model <- pick_result(models, name, "model", "RunSysVI()", argument)
  if (is.null(label)) {
    return(list(model = model))
  }
  cells <- describe_labelled_cells(reference, if (is.null(name)) names(models) else name, metadata)
  label <- as_categorical(read_column(label, "label", cells, complete = FALSE))
  keys <- c(system = model$system_key, batch = names(model$categorical)[1L])
  keys <- as.list(keys[keys %in% colnames(cells$metadata)])
  columns <- c(list(label), lapply(setdiff(unname(unlist(keys)), label$name), function(key) {
    as_categorical(read_column(key, "reference", cells))
  }))
  arrays <- c(column_arrays(columns), list(embedding = cells$embedding))
  list(
    model = model,
    labels_from = list(
      label = label$name, system = keys$system, batch = keys$batch, cells = I(cells$cells),
      columns = column_headers(columns)
    ),
    arrays = setNames(arrays, paste0("reference_", names(arrays)))
  )
}

labels_remedy <- "give the object that RunSysVI() returned, or a folder of SaveReferenceSysVI()"

# Labels in the folder of a reference; the engine reads them.
find_labels <- function(folder, label) {
  check_string(label)
  if (!file.exists(file.path(folder, "config.json"))) {
    sysvi_abort("{folder} holds a model, but no labelled cells: {labels_remedy}.")
  }
  list(folder = normalizePath(folder), label = label, system = NULL, batch = NULL)
}

# Cells of an integrated object: list(cells, metadata, embedding).
describe_labelled_cells <- function(object, name, metadata) {
  if (inherits(object, "Seurat")) {
    embedding <- SeuratObject::Embeddings(object[[name]])
    metadata <- object[[]]
  } else if (is(object, "SingleCellExperiment")) {
    embedding <- SingleCellExperiment::reducedDim(object, name)
    metadata <- as.data.frame(SummarizedExperiment::colData(object), optional = TRUE)
  } else {
    embedding <- object
  }
  cells <- rownames(embedding)
  list(
    cells = cells, metadata = match_metadata(metadata, cells),
    embedding = matrix(as.double(embedding), length(cells))
  )
}

# The model's columns of the query, under the model's names.
describe_query_columns <- function(cells, model, system, batch) {
  categories <- names(model$categorical)
  if (!is.null(batch) && !length(categories)) {
    sysvi_abort("The model was trained without batches: leave {.arg batch} out.")
  }
  read <- function(name, given = NULL, role = name) {
    column <- read_column(if (is.null(given)) name else given, role, cells, name)
    column$name <- name
    column
  }
  categorical <- c(
    list(read(model$system_key, system, "system")),
    if (length(categories)) list(read(categories[1L], batch, "batch")),
    lapply(categories[-1L], read)
  )
  c(lapply(categorical, as_categorical), lapply(lapply(names(model$continuous), read), as_continuous))
}

# Labels of the query with their doubt, a data.frame with a row for each cell; NULL if the
# answer has none.
read_labels <- function(answer, cells, label) {
  if (is.null(label)) {
    return(NULL)
  }
  table <- data.frame(
    transferred = factor(answer$values$labels[as.integer(answer$arrays$label) + 1L], answer$values$labels),
    confidence = as.double(answer$arrays$confidence),
    novelty = as.double(answer$arrays$novelty),
    row.names = cells
  )
  names(table) <- paste(label, names(table), sep = "_")
  table
}
