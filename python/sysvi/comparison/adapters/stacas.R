# /// script
# dependencies = ["STACAS", "Seurat", "jsonlite"]
#
# [tool.sysvi]
# package = "STACAS"
# imports = ["STACAS", "Seurat", "jsonlite"]
#
# [tool.sysvi.sources]
# STACAS_SOURCE = "STACAS"
#
# # The grid is ours. k.anchor (default 5) is the strength of integration, as in Seurat.
# [tool.sysvi.methods.stacas]
# title = "STACAS"
# settings = { k_anchor = 5, n_components = 30 }
# grid = { k_anchor = [5, 10, 20, 50] }
# ///
# STACAS without cell types: integration of systems by anchors, on all prepared genes.

here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))
suppressPackageStartupMessages(library(Seurat))

given <- arguments()
settings <- given$run$settings
cells <- read_cells(given$source)
object <- CreateSeuratObject(CreateAssayObject(data = cells$expression), meta.data = cells$obs)
fewest <- min(table(object$system))
# min.sample.size is lowered for small systems, which STACAS would leave out.
object <- STACAS::Run.STACAS(SplitObject(object, split.by = "system"),
  anchor.features = rownames(object), dims = min(settings$n_components, fewest - 1), k.anchor = settings$k_anchor,
  k.score = min(30, fewest - 1), k.weight = min(100, fewest - 1), min.sample.size = min(100, fewest),
  seed = given$run$seed
)
write_npy(Embeddings(object, "pca")[rownames(cells$obs), ], given$target)
