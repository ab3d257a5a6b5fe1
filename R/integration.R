#' sysVI inside IntegrateLayers
#'
#' An integration method for `Seurat::IntegrateLayers()` on split Assay5 and
#' SCT assays:
#' `IntegrateLayers(object, method = SysVIIntegration, orig.reduction = NULL, new.reduction = "sysvi")`.
#' No PCA is needed, hence `orig.reduction = NULL`.
#'
#' @details
#' Systems are the parts of a split assay (`"data.human"`, `"data.mouse"`), or
#' the models of an SCT assay, unless `system` is given. IntegrateLayers does
#' not hand over metadata, so `system`, `batch` and covariates are vectors named
#' by cell, such as `object$donor`. It chooses the features itself,
#' `VariableFeatures(object)`; [RunSysVI()] chooses them for each system, which
#' mixes better, and knows the metadata.
#'
#' @param object An Assay5 or SCTAssay.
#' @param assay Its name.
#' @param orig Never looked at.
#' @param layers Layers with log-normalised expression.
#' @param scale.layer Never looked at.
#' @param features Genes to use.
#' @param system,batch Vectors named by cell.
#' @param new.reduction,reduction.key Name of the new reduction, and what its
#'   columns' names start with.
#' @param ... Further arguments of [RunSysVI()]: `covariates`, `cycle_weight`,
#'   `max_epochs`, `seed`, `process`, ...
#'
#' @return Named list with the reduction, as IntegrateLayers wants it. The model
#'   is in the reduction's `Misc()` (see [LoadSysVI()]).
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
  check_string(new.reduction, "new.reduction")
  check_string(reduction.key, "reduction.key")
  if (!inherits(object, c("Assay5", "Assay"))) {
    abort("SysVIIntegration() takes an Assay5 or SCTAssay; for a %s use RunSysVI().", class(object)[1L])
  }
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  assay <- if (length(assay)) assay else "RNA"
  cells <- cells_of(object, assay = assay, layer = if (is.null(layers)) "data" else layers)
  if (is.null(system)) system <- systems_of(object, cells)
  fit <- integrate_cells(cells, system, batch, features = features, ...)
  setNames(list(as_reduction(fit, assay, reduction.key)), new.reduction)
}
attr(SysVIIntegration, "Seurat.method") <- "integration"

# Systems as the assay's parts say: named by cell.
systems_of <- function(object, cells) {
  if (inherits(object, "SCTAssay")) {
    models <- slot(object, "SCTModel.list")
    parts <- lapply(models, function(model) rownames(slot(model, "cell.attributes")))
    how <- "run SCTransform() on an object that is split by system"
  } else {
    parts <- lapply(cells$layers, `[[`, "cells")
    names(parts) <- part_names(vapply(cells$layers, `[[`, "", "name"))
    how <- "object[[assay]] <- split(object[[assay]], object$species)"
  }
  if (length(parts) < 2L) {
    abort(
      "%s is all in one part, so there is no system to integrate over: split it (%s), or give system = object$species.",
      sentence(cells$where), how
    )
  }
  setNames(rep(names(parts), lengths(parts)), unlist(parts, use.names = FALSE))
}

# c("data.human", "data.mouse") -> c("human", "mouse")
part_names <- function(layers) {
  parts <- sub("^data\\.", "", layers)
  if (anyDuplicated(parts)) layers else parts
}
