# Map a query onto a reference with Seurat's MapQuery, as in its vignette of integration and mapping.
#
# Rscript benchmarks/peers/map_query.R folder seed
#
# `folder` has the folders `reference` and `query` as the benchmark mapping.py writes them, and gets the tables
# reference.csv and query.csv with the embedding of each cell; that of the query also has the column `label`.

here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "..", "..", "python", "sysvi", "comparison", "adapters", "common.R"))
suppressPackageStartupMessages(library(Seurat))

given <- commandArgs(trailingOnly = TRUE)
folder <- given[1]
set.seed(as.integer(given[2]))
n_components <- 30

read_object <- function(name) {
  cells <- read_cells(file.path(folder, name))
  CreateSeuratObject(CreateAssay5Object(counts = cells$expression, data = cells$expression), meta.data = cells$obs)
}

reference <- read_object("reference")
VariableFeatures(reference) <- rownames(reference)
reference <- RunPCA(ScaleData(reference, verbose = FALSE), npcs = n_components, verbose = FALSE)
query <- read_object("query")
anchors <- FindTransferAnchors(
  reference, query,
  features = rownames(reference), dims = seq_len(n_components), reference.reduction = "pca", verbose = FALSE
)
query <- MapQuery(
  anchors, query, reference,
  refdata = list(label = "cell_type"), reference.reduction = "pca", verbose = FALSE
)
utils::write.csv(Embeddings(reference, "pca"), file.path(folder, "reference.csv"))
utils::write.csv(
  data.frame(Embeddings(query, "ref.pca"), label = query$predicted.label), file.path(folder, "query.csv")
)
