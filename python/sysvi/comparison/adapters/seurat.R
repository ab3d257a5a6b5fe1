# /// script
# dependencies = ["Seurat", "jsonlite"]
#
# [tool.sysvi]
# package = "Seurat"
# imports = ["Seurat", "jsonlite"]
#
# # The grid is ours. k.anchor (default 5) is Seurat's strength of integration.
# [tool.sysvi.methods.seurat-cca]
# title = "Seurat CCA"
# deterministic = true
# settings = { reduction = "CCAIntegration", k_anchor = 5, n_components = 30 }
# grid = { k_anchor = [5, 10, 20, 50] }
#
# [tool.sysvi.methods.seurat-rpca]
# title = "Seurat RPCA"
# deterministic = true
# settings = { reduction = "RPCAIntegration", k_anchor = 5, n_components = 30 }
# grid = { k_anchor = [5, 10, 20, 50] }
# ///
# Seurat's integration of systems by anchors (CCA or RPCA), on all prepared genes.

here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
suppressPackageStartupMessages(library(Seurat))

given <- arguments()
settings <- given$run$settings
set.seed(given$run$seed)
cells <- read_cells(given$source)
assay <- CreateAssay5Object(counts = cells$expression, data = cells$expression)
object <- CreateSeuratObject(assay, meta.data = cells$obs)
object[["RNA"]] <- split(object[["RNA"]], f = object$system)
VariableFeatures(object) <- rownames(object)
object <- ScaleData(object, verbose = FALSE)
n_components <- min(settings$n_components, min(table(object$system)) - 1)
object <- RunPCA(object, npcs = n_components, verbose = FALSE)
object <- IntegrateLayers(object,
  method = settings$reduction, orig.reduction = "pca", new.reduction = "integrated", features = rownames(object),
  dims = seq_len(n_components), k.anchor = settings$k_anchor, k.weight = min(100, min(table(object$system)) - 1),
  verbose = FALSE
)
write_npy(Embeddings(object, "integrated")[rownames(cells$obs), ], given$target)
