#' sysVI as a method of IntegrateLayers
#'
#' An integration method for `Seurat::IntegrateLayers()` on split Assay5 and SCT
#' assays:
#' `IntegrateLayers(object, method = SysVIIntegration, orig.reduction = NULL, new.reduction = "sysvi")`.
#' No PCA is needed, hence `orig.reduction = NULL`.
#'
#' @details
#' Systems are the layers of a split assay (`"data.human"`, `"data.mouse"`) or the
#' models of an SCT assay, unless `system` is given. IntegrateLayers does not pass
#' metadata to its methods, so `system`, `batch` and covariates are vectors named
#' by cell, such as `object$donor`. IntegrateLayers chooses the features itself,
#' `VariableFeatures(object)`. [RunSysVI()] selects variable genes within each
#' system, which mixes systems better, and reads columns from the metadata.
#'
#' @param object An Assay5 or SCTAssay.
#' @param assay Name of the assay.
#' @param orig Not used.
#' @param layers Names of the layers with log-normalised expression.
#' @param scale.layer Not used.
#' @param features Names of the genes to use.
#' @param system,batch Vectors named by cell.
#' @param new.reduction,reduction.key Name of the new reduction, and prefix of the
#'   names of its dimensions.
#' @param ... Further arguments of [RunSysVI()]: `covariates`, `cycle_weight`,
#'   `max_epochs`, `members`, `preset`, `seed`, `process`, ...
#'
#' @return Named list with the reduction, as IntegrateLayers expects it. `Misc()` of
#'   the reduction has the model, `"sysVI"` (see [LoadSysVI()]), and of an ensemble
#'   the support of each cell, `"support"` and `"support_by_system"` (see
#'   [RunSysVI()]):
#'   `object$sysvi_support <- Misc(object[["sysvi"]], "support")`.
#' @export
#' @examplesIf sysvi_available() && requireNamespace("Seurat", quietly = TRUE)
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' object <- SeuratObject::CreateSeuratObject(cells$counts, meta.data = cells$metadata)
#' object[["RNA"]] <- split(object[["RNA"]], object$system)
#' object <- Seurat::NormalizeData(object, verbose = FALSE)
#' object <- Seurat::IntegrateLayers(
#'   object, SysVIIntegration,
#'   orig.reduction = NULL, new.reduction = "sysvi", features = rownames(object), scale.layer = "data",
#'   batch = object$batch, max_epochs = 2, verbose = FALSE
#' )
#' object[["sysvi"]]
SysVIIntegration <- function(object, assay = NULL, orig = NULL, layers = NULL, scale.layer = NULL, features = NULL,
                             system = NULL, batch = NULL, ..., new.reduction = "sysvi", reduction.key = "sysvi_") {
  check_string(new.reduction)
  check_string(reduction.key)
  if (!inherits(object, c("Assay5", "Assay"))) {
    sysvi_abort("SysVIIntegration() takes an Assay5 or SCTAssay: for a {class(object)[1L]} use RunSysVI().")
  }
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  if (!length(assay)) assay <- "RNA" # an assay outside a Seurat object does not know its name
  cells <- describe_cells(object, assay = assay, layer = if (is.null(layers)) "data" else layers)
  if (is.null(system)) system <- read_assay_systems(object, cells)
  z <- RunSysVI.default(cells, system, batch, NULL, features = features, ...) # NULL: an assay has no metadata
  setNames(list(as_reduction(z, assay, reduction.key)), new.reduction)
}
attr(SysVIIntegration, "Seurat.method") <- "integration"

# Systems by the layers or SCT models of an assay: a vector named by cell.
read_assay_systems <- function(object, cells) {
  if (inherits(object, "SCTAssay")) {
    models <- slot(object, "SCTModel.list")
    parts <- lapply(models, function(model) rownames(slot(model, "cell.attributes")))
    remedy <- "run SCTransform() on an object that is split by system"
  } else {
    parts <- lapply(cells$layers, `[[`, "cells")
    names(parts) <- shorten_layer_names(vapply(cells$layers, `[[`, "", "name"))
    remedy <- "object[[assay]] <- split(object[[assay]], object$species)"
  }
  if (length(parts) < 2L) {
    sysvi_abort(paste(
      "{capitalise(cells$source)} is not split, so there are no systems to integrate: split it ({remedy}), or give",
      "system = object$species."
    ))
  }
  setNames(rep(names(parts), lengths(parts)), unlist(parts, use.names = FALSE))
}

# c("data.human", "data.mouse") -> c("human", "mouse"), if names stay unique
shorten_layer_names <- function(layers) {
  short <- sub("^data\\.", "", layers)
  if (anyDuplicated(short)) layers else short
}
