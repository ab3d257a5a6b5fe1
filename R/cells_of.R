# The doors for data: what each kind of object holds, described plainly (see expression.R).
# A function that hands over its user's `...` is named in `.of`: what a kind of object has
# no use for is refused in its name.

cells_of <- function(object, ...) UseMethod("cells_of")

#' @exportS3Method
cells_of.default <- function(object, metadata = NULL, ..., .of) {
  no_dots(..., .of = .of, .for = " for a matrix", .rarer = "")
  if (length(dim(object)) != 2L || is.data.frame(object)) {
    abort(
      "object is a %s; give a Seurat or SingleCellExperiment object or a matrix of genes x cells.",
      class(object)[1L]
    )
  }
  if (is.matrix(object) && !is.numeric(object) && !is.logical(object)) {
    abort("object is a %s matrix; give numbers.", typeof(object))
  }
  cells <- colnames(object)
  new_cells(
    list(list(name = "object", x = object, genes = rownames(object), cells = cells)),
    cells, metadata_of(cells, metadata),
    where = "the matrix",
    mend = c(
      counts = "give log-normalised values, for example log1p of counts scaled to 10,000 a cell",
      scaled = "give log-normalised values instead"
    )
  )
}

#' @exportS3Method
cells_of.SummarizedExperiment <- function(object, ...) {
  abort(
    "object is a %s: run library(SingleCellExperiment) and object <- as(object, \"SingleCellExperiment\") first.",
    class(object)[1L]
  )
}

# The rows of `metadata` for these cells.
metadata_of <- function(cells, metadata) {
  if (!is.null(metadata) && !is.data.frame(metadata)) abort("metadata must be a data.frame with one row a cell.")
  if (!is.null(metadata) && length(lost <- setdiff(cells, rownames(metadata)))) {
    abort(
      "metadata lacks %d of the %d cells of object (%s): its row names must be cell names.",
      length(lost), length(cells), quoted(lost, 3L)
    )
  }
  as.data.frame(metadata)[cells, , drop = FALSE]
}

#' @exportS3Method
cells_of.SingleCellExperiment <- function(object, assay = "logcounts", ..., .of) {
  no_dots(..., .of = .of, .for = " for a SingleCellExperiment", .rarer = "")
  need_package("SummarizedExperiment", "RunSysVI() on a SingleCellExperiment")
  check_string(assay, "assay")
  assays <- SummarizedExperiment::assayNames(object)
  if (!assay %in% assays) {
    abort(
      "object has no assay '%s' (it has %s): run object <- scater::logNormCounts(object) or name another with `assay`.",
      assay, quoted(assays)
    )
  }
  new_cells(
    list(list(
      name = assay, x = SummarizedExperiment::assay(object, assay, withDimnames = FALSE),
      genes = rownames(object), cells = colnames(object)
    )),
    colnames(object), as.data.frame(SummarizedExperiment::colData(object), optional = TRUE),
    where = sprintf("assay '%s'", assay),
    mend = c(
      counts = "run object <- scater::logNormCounts(object) and use assay = \"logcounts\"",
      scaled = "use the log-normalised assay, assay = \"logcounts\""
    )
  )
}

#' @exportS3Method
cells_of.Seurat <- function(object, assay = NULL, layer = "data", ..., .of) {
  no_dots(..., .of = .of, .for = " for a Seurat object", .rarer = "")
  need_package("SeuratObject", "RunSysVI() on a Seurat object")
  assays <- SeuratObject::Assays(object)
  assay <- if (is.null(assay)) SeuratObject::DefaultAssay(object) else assay
  check_string(assay, "assay")
  if (!assay %in% assays) abort("object has no assay '%s': choose one of %s.", assay, quoted(assays))
  cells <- cells_of(object[[assay]], assay = assay, layer = layer)
  cells$metadata <- object[[]][cells$cells, , drop = FALSE]
  cells
}

#' @exportS3Method
cells_of.Assay <- function(object, assay = "RNA", layer = "data", ..., .of) {
  no_dots(..., .of = .of, .for = " for an assay", .rarer = "")
  check_string(layer, "layer")
  if (!layer %in% c("counts", "data", "scale.data")) {
    abort("Assay '%s' has no layer '%s': choose \"data\".", assay, layer)
  }
  x <- slot(object, layer)
  if (!length(x)) abort("Layer '%s' of assay '%s' is empty: %s.", layer, assay, seurat_mend(assay)[["counts"]])
  new_cells(
    list(list(name = layer, x = x, genes = rownames(x), cells = colnames(x))),
    colnames(object), NULL,
    where = sprintf("layer '%s' of assay '%s'", layer, assay), mend = seurat_mend(assay)
  )
}

#' @exportS3Method
cells_of.Assay5 <- function(object, assay = "RNA", layer = "data", ..., .of) {
  no_dots(..., .of = .of, .for = " for an assay", .rarer = "")
  if (!is.character(layer) || !length(layer) || anyNA(layer)) abort("layer must name one layer or several.")
  there <- SeuratObject::Layers(object)
  # "data" also means its parts, "data.human" and "data.mouse"
  layers <- unique(unlist(lapply(layer, function(name) {
    if (name %in% there) name else there[startsWith(there, paste0(name, "."))]
  })))
  if (!length(layers)) {
    abort(
      "Assay '%s' has no layer '%s' (it has %s): %s.", assay, layer[1L], quoted(there),
      if (identical(layer, "data")) seurat_mend(assay)[["counts"]] else "name another with `layer`, or another `assay`"
    )
  }
  new_cells(
    lapply(layers, function(name) {
      x <- slot(object, "layers")[[name]]
      genes <- SeuratObject::Features(object, layer = name)
      cells <- SeuratObject::Cells(object, layer = name)
      if (is.null(dim(x))) x <- matrix(x, length(genes), length(cells)) # what subset() makes of one cell or gene
      list(name = name, x = x, genes = genes, cells = cells)
    }),
    colnames(object), NULL,
    where = sprintf("layer '%s' of assay '%s'", paste(layer, collapse = "', '"), assay), mend = seurat_mend(assay)
  )
}

seurat_mend <- function(assay) {
  c(
    counts = sprintf("run object <- Seurat::NormalizeData(object, assay = \"%s\") and use layer = \"data\"", assay),
    scaled = "use the log-normalised layer, layer = \"data\"",
    cells = sprintf("run object <- Seurat::NormalizeData(object, assay = \"%s\"), or name all layers", assay)
  )
}
