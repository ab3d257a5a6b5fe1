# Small data made in R: two systems, two batches each, 80 genes.
make_cells <- function(n_cells = 240L, n_genes = 80L, seed = 1L) {
  withr::with_seed(seed, {
    system <- rep(c("human", "mouse"), length.out = n_cells)
    batch <- paste0(system, sample(1:2, n_cells, replace = TRUE))
    mean <- matrix(rexp(2L * n_genes, 0.5), n_genes, 2L)[, ifelse(system == "human", 1L, 2L)]
    counts <- matrix(rpois(length(mean), mean), n_genes, n_cells)
    age <- rnorm(n_cells, 50, 10)
  })
  cells <- sprintf("cell%03d", seq_len(n_cells))
  dimnames(counts) <- list(sprintf("gene%02d", seq_len(n_genes)), cells)
  metadata <- data.frame(system = system, batch = batch, age = age, row.names = cells)
  counts <- as(counts, "CsparseMatrix")
  data <- counts
  data@x <- log1p(data@x / rep(Matrix::colSums(counts), diff(counts@p)) * 1e4)
  list(counts = counts, data = data, metadata = metadata)
}

# A short training of a single model.
run <- function(..., members = 1L, max_epochs = 1L, verbose = FALSE) {
  quietly(RunSysVI(..., members = members, max_epochs = max_epochs, verbose = verbose))
}

# A short training of an ensemble with the default number of members.
run_ensemble <- function(..., max_epochs = 1L, verbose = FALSE) {
  quietly(RunSysVI(..., max_epochs = max_epochs, verbose = verbose))
}

# A function that makes a value when it is first called, and returns this one from then on.
once <- function(make) {
  value <- NULL
  function() {
    if (is.null(value)) value <<- make()
    value
  }
}

# Muffle the warnings that small data and short trainings cause.
quietly <- function(code) {
  withCallingHandlers(code, warning = function(w) {
    expected <- "few for|fewer cells|are zero in all|The integration leaves|Some cells have no counterpart"
    if (grepl(expected, conditionMessage(w))) invokeRestart("muffleWarning")
  })
}

small <- sysvi_options(n_hidden = 16L, n_prior_components = 2L)

make_seurat <- function(cells, version = "v5") {
  withr::local_options(Seurat.object.assay.version = version)
  object <- SeuratObject::CreateSeuratObject(cells$counts, meta.data = cells$metadata)
  SeuratObject::SetAssayData(object, layer = "data", new.data = cells$data)
}

make_sce <- function(cells) {
  SingleCellExperiment::SingleCellExperiment(
    list(counts = cells$counts, logcounts = cells$data),
    colData = cells$metadata
  )
}

# Values only, without names and model.
values <- function(x) unname(matrix(as.numeric(x), nrow(x)))

expect_sysvi_error <- function(code, ...) expect_error(code, ..., class = "sysvi_error")

skip_without_engine <- function() {
  skip_if_not(sysvi_available(), "Python with the engine's dependencies")
}

python <- function(code) reticulate::py_eval(code)

# Until the end of a test, two models are trained at a time, whatever the number of cores.
local_two_threads <- function(env = parent.frame()) {
  torch <- reticulate::import("torch")
  before <- torch$get_num_threads()
  withr::defer(torch$set_num_threads(before), env)
  torch$set_num_threads(2L)
}
