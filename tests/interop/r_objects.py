"""Settings of the models in the tests, in Python and in R, and R code that makes objects."""

ENSEMBLE = {"max_epochs": 2, "n_latent": 5, "seed": 3}  # with the default number of members
ENSEMBLE_R = "max_epochs = 2, n_latent = 5, seed = 3, device = 'cpu', verbose = FALSE"
SMALL = {**ENSEMBLE, "members": 1}
SMALL_R = f"{ENSEMBLE_R}, members = 1"

# R code by kind of object; it uses the variables `expression`, `counts` (genes x cells) and `obs`.
OBJECTS = {
    "Assay5": "CreateSeuratObject(CreateAssay5Object(counts = counts, data = expression), meta.data = obs)",
    "split Assay5": """{
        object <- CreateSeuratObject(CreateAssay5Object(counts = counts, data = expression), meta.data = obs)
        object[["RNA"]] <- split(object[["RNA"]], object$system)
        object
    }""",
    "v3 Assay": "CreateSeuratObject(CreateAssayObject(data = expression), meta.data = obs)",
    "SCE": "SingleCellExperiment(list(counts = counts, logcounts = expression), colData = obs)",
    "SCE in an HDF5 file": """
        SingleCellExperiment(list(counts = counts, logcounts = as(expression, "HDF5Array")), colData = obs)
    """,
    "delayed SCE": "SingleCellExperiment(list(logcounts = DelayedArray(expression / 2) * 2), colData = obs)",
}
