# Cells of any object, described alike for all functions: a list of class
# "sysvi_cells" with
#   layers    list of list(name, x, genes, cells); x is a matrix of genes x cells
#   cells     names of all cells, in the order of the results
#   metadata  data.frame with one row per cell, or NULL
#   source    what messages call the matrices, such as "assay 'logcounts'"
#   remedies  what messages advise, named: for raw "counts", for "scaled" values, and
#             for "cells" that no layer holds
#   lacking_genes  names of the genes that each system lacks, by system, or NULL
describe_cells <- function(object, ...) UseMethod("describe_cells")

# A described object is taken as it is. Methods for Seurat and SingleCellExperiment
# objects describe them and call the default method of RunSysVI() and its like.
#' @exportS3Method
describe_cells.sysvi_cells <- function(object, metadata = NULL, ...) {
  if (!is.null(metadata)) {
    sysvi_abort("{.arg metadata} is for matrices only: add columns to the metadata of the object itself.")
  }
  object
}

#' @exportS3Method
describe_cells.default <- function(object, metadata = NULL, ...) {
  rlang::check_dots_empty(call = NULL)
  if (length(dim(object)) != 2L || is.data.frame(object)) {
    sysvi_abort(paste(
      "{.arg object} is a {class(object)[1L]}: give a Seurat or SingleCellExperiment object or a matrix of genes x",
      "cells."
    ))
  }
  if (is.matrix(object) && !is.numeric(object) && !is.logical(object)) {
    sysvi_abort("{.arg object} is a {typeof(object)} matrix: give a numeric one.")
  }
  cells <- colnames(object)
  new_cells(
    list(list(name = "object", x = object, genes = rownames(object), cells = cells)),
    cells, match_metadata(metadata, cells),
    source = "the matrix",
    remedies = c(
      counts = "give log-normalised values, for example log1p of counts scaled to 10,000 per cell",
      scaled = "give log-normalised values instead"
    )
  )
}

#' @exportS3Method
describe_cells.SummarizedExperiment <- function(object, ...) {
  sysvi_abort(paste(
    "{.arg object} is a {class(object)[1L]}: run {.code library(SingleCellExperiment)} and",
    "{.code object <- as(object, \"SingleCellExperiment\")} first."
  ))
}

# Objects of anndataR, which read the expression as a whole, also that of a file.
#' @exportS3Method
describe_cells.AbstractAnnData <- function(object, ...) {
  sysvi_abort(paste(
    "{.arg object} is of anndataR ({class(object)[1L]}): give a SingleCellExperiment, with",
    "{.code HDF5Array::H5ADMatrix(file)} as an assay if it is large, or the file to {.fn IntegrateFilesSysVI}."
  ))
}

#' @exportS3Method
describe_cells.SingleCellExperiment <- function(object, assay = "logcounts", ...) {
  rlang::check_dots_empty(call = NULL)
  rlang::check_installed("SummarizedExperiment", "to read a SingleCellExperiment.")
  check_string(assay)
  assays <- SummarizedExperiment::assayNames(object)
  if (!assay %in% assays) {
    sysvi_abort(paste(
      "{.arg object} has no assay '{assay}' (it has {quote_names(assays)}): run",
      "{.code object <- scater::logNormCounts(object)} or name another with {.arg assay}."
    ))
  }
  new_cells(
    list(list(
      name = assay, x = SummarizedExperiment::assay(object, assay, withDimnames = FALSE),
      genes = rownames(object), cells = colnames(object)
    )),
    colnames(object), as.data.frame(SummarizedExperiment::colData(object), optional = TRUE),
    source = sprintf("assay '%s'", assay),
    remedies = c(
      counts = "run object <- scater::logNormCounts(object) and use assay = \"logcounts\"",
      scaled = "use the log-normalised assay, assay = \"logcounts\""
    ),
    lacking_genes = S4Vectors::metadata(object)[[lacking_genes_name]]
  )
}

#' @exportS3Method
describe_cells.Seurat <- function(object, assay = NULL, layer = "data", ...) {
  rlang::check_dots_empty(call = NULL)
  rlang::check_installed("SeuratObject", "to read a Seurat object.")
  assays <- SeuratObject::Assays(object)
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  check_string(assay)
  if (!assay %in% assays) {
    sysvi_abort("{.arg object} has no assay '{assay}': choose one of {quote_names(assays)}.")
  }
  cells <- describe_cells(object[[assay]], assay = assay, layer = layer)
  cells$metadata <- object[[]][cells$cells, , drop = FALSE]
  cells$lacking_genes <- SeuratObject::Misc(object, lacking_genes_name)
  cells
}

# An assay of Seurat 3 or 4, or an SCTAssay.
#' @exportS3Method
describe_cells.Assay <- function(object, assay = "RNA", layer = "data", ...) {
  rlang::check_dots_empty(call = NULL)
  check_string(layer)
  if (!layer %in% c("counts", "data", "scale.data")) {
    sysvi_abort("Assay '{assay}' has no layer '{layer}': choose \"data\".")
  }
  x <- slot(object, layer)
  remedies <- seurat_remedies(assay)
  if (!length(x)) sysvi_abort("Layer '{layer}' of assay '{assay}' is empty: {remedies[['counts']]}.")
  new_cells(
    list(list(name = layer, x = x, genes = rownames(x), cells = colnames(x))),
    colnames(object), NULL,
    source = sprintf("layer '%s' of assay '%s'", layer, assay), remedies = remedies
  )
}

#' @exportS3Method
describe_cells.Assay5 <- function(object, assay = "RNA", layer = "data", ...) {
  rlang::check_dots_empty(call = NULL)
  if (!is.character(layer) || !length(layer) || anyNA(layer)) {
    sysvi_abort("{.arg layer} must name one layer or several.")
  }
  available <- SeuratObject::Layers(object)
  remedies <- seurat_remedies(assay)
  # "data" also stands for the layers of a split assay, "data.human" and "data.mouse"
  names <- unique(unlist(lapply(layer, function(name) {
    if (name %in% available) name else available[startsWith(available, paste0(name, "."))]
  })))
  if (!length(names)) {
    remedy <- if (identical(layer, "data")) {
      remedies[["counts"]]
    } else {
      "name another with `layer`, or another `assay`"
    }
    sysvi_abort("Assay '{assay}' has no layer '{layer[1L]}' (it has {quote_names(available)}): {remedy}.")
  }
  layers <- lapply(names, function(name) {
    x <- slot(object, "layers")[[name]]
    genes <- SeuratObject::Features(object, layer = name)
    cells <- SeuratObject::Cells(object, layer = name)
    if (is.null(dim(x))) x <- matrix(x, length(genes), length(cells)) # subset() to one cell or gene drops dimensions
    list(name = name, x = x, genes = genes, cells = cells)
  })
  new_cells(
    layers, colnames(object), NULL,
    source = sprintf("layer '%s' of assay '%s'", paste(layer, collapse = "', '"), assay), remedies = remedies
  )
}

seurat_remedies <- function(assay) {
  normalise <- sprintf("run object <- Seurat::NormalizeData(object, assay = \"%s\")", assay)
  c(
    counts = paste(normalise, "and use layer = \"data\""),
    scaled = "use the log-normalised layer, layer = \"data\"",
    cells = paste0(normalise, ", or name all layers")
  )
}

# The rows of `metadata` that belong to `cells`, in their order.
match_metadata <- function(metadata, cells) {
  if (!is.null(metadata) && !is.data.frame(metadata)) {
    sysvi_abort("{.arg metadata} must be a data.frame with one row per cell.")
  }
  absent <- if (is.null(metadata)) NULL else setdiff(cells, rownames(metadata))
  if (length(absent)) {
    sysvi_abort(paste(
      "{.arg metadata} lacks {length(absent)} of the {length(cells)} cells of the object ({quote_names(absent, 3L)}):",
      "its row names must be cell names."
    ))
  }
  as.data.frame(metadata)[cells, , drop = FALSE]
}

# Where PrepareSystems(genes = "union") stores the genes that each system lacks.
lacking_genes_name <- "sysvi_lacking_genes"

new_cells <- function(layers, cells, metadata, source, remedies, lacking_genes = NULL) {
  for (layer in layers) {
    layer_source <- if (length(layers) > 1L) sprintf("Layer '%s'", layer$name) else capitalise(source)
    check_unique_names(layer$genes, layer_source, "gene", "row")
    check_unique_names(layer$cells, layer_source, "cell", "column")
  }
  layer_names <- vapply(layers, `[[`, "", "name")
  stored <- cells_in_layers(layers)
  if (anyDuplicated(stored)) {
    sysvi_abort(paste(
      "Cell '{stored[anyDuplicated(stored)]}' is in more than one of the layers {quote_names(layer_names)}: name",
      "layers with {.arg layer} so that each cell is in one of them."
    ))
  }
  absent <- setdiff(cells, stored)
  if (length(absent)) {
    sysvi_abort(paste(
      "{capitalise(source)} lacks {length(absent)} of the {length(cells)} cells ({quote_names(absent, 3L)}):",
      "{remedies[['cells']]}."
    ))
  }
  structure(
    list(
      layers = layers, cells = cells, metadata = metadata, source = source, remedies = remedies,
      lacking_genes = lacking_genes
    ),
    class = "sysvi_cells"
  )
}

check_unique_names <- function(names, source, kind, side) {
  if (is.null(names) || anyNA(names) || any(names == "")) {
    sysvi_abort("{source} has no {kind} names: set its {side} names.")
  }
  if (anyDuplicated(names)) {
    sysvi_abort(paste(
      "{source} has the {kind} name '{names[anyDuplicated(names)]}' more than once: make names unique, for example",
      "with {.code make.unique()}."
    ))
  }
}

# Names of the cells in the order in which the layers hold them.
cells_in_layers <- function(layers) unlist(lapply(layers, `[[`, "cells"), use.names = FALSE)

# Genes that all layers share, in the order of the first layer; with `features`,
# those of them, in the order of `features`.
select_genes <- function(cells, features = NULL) {
  genes <- Reduce(intersect, lapply(cells$layers, `[[`, "genes"))
  if (!length(genes)) {
    layer_names <- vapply(cells$layers, `[[`, "", "name")
    sysvi_abort("The layers {quote_names(layer_names)} have no gene in common: check the gene names of each layer.")
  }
  if (is.null(features)) {
    return(genes)
  }
  if (!is.character(features) || anyNA(features)) {
    sysvi_abort("{.arg features} must be a character vector of gene names.")
  }
  features <- unique(features)
  absent <- setdiff(features, genes)
  if (length(absent) == length(features)) {
    sysvi_abort(paste(
      "None of the {length(features)} features is in {cells$source}: it has names like {quote_names(genes, 3L)},",
      "{.arg features} has {quote_names(features, 3L)}."
    ))
  }
  if (length(absent)) {
    sysvi_warn(paste(
      "{length(absent)} of {length(features)} features are not in {cells$source} and are left out",
      "({quote_names(absent)})."
    ))
  }
  setdiff(features, absent)
}
