# Expression on disk that neither R nor the engine holds as a whole.
cells <- make_cells()

# A matrix in a file behind the interface of matrices on disk, as those of BPCells have it: dim(), dimnames(), lazy `[`,
# and as(x, "dgCMatrix"), which reads. `n_read` counts the cells of each reading.
methods::setClass("FileMatrix", slots = c(file = "character", rows = "integer", columns = "integer", names = "list"))
methods::setMethod("dim", "FileMatrix", function(x) c(length(x@rows), length(x@columns)))
methods::setMethod("dimnames", "FileMatrix", function(x) list(x@names[[1L]][x@rows], x@names[[2L]][x@columns]))
methods::setMethod("[", "FileMatrix", function(x, i, j, ..., drop = FALSE) {
  if (!missing(i)) x@rows <- x@rows[i]
  if (!missing(j)) x@columns <- x@columns[j]
  x
})
n_read <- integer()
methods::setAs("FileMatrix", "dgCMatrix", function(from) {
  n_read <<- c(n_read, length(from@columns))
  readRDS(from@file)[from@rows, from@columns, drop = FALSE]
})
file_matrix <- function(x) {
  file <- withr::local_tempfile(.local_envir = teardown_env())
  saveRDS(x, file)
  methods::new("FileMatrix", file = file, rows = seq_len(nrow(x)), columns = seq_len(ncol(x)), names = dimnames(x))
}

integrate <- function(x, ...) run(x, "system", "batch", metadata = cells$metadata, options = small, ...)
in_memory <- once(function() integrate(cells$data, members = 2L))

test_that("matrices on disk give the bits of memory, in both processes, and are read in blocks of cells", {
  skip_without_engine()
  n_read <<- integer()
  local_mocked_bindings(values_per_block = function(in_memory) 80 * 50)
  folder <- withr::local_tempdir()
  for (process in c("session", "separate")) {
    x <- if (process == "session") cells$data else file_matrix(cells$data)
    z <- integrate(x, members = 2L, process = process, memory = "4GB", folder = folder)
    expect_identical(z, in_memory(), label = process) # with the support and the model
    expect_length(list.files(folder, all.files = TRUE, no.. = TRUE), 0L)
  }
  expect_identical(n_read, c(50L, 50L, 50L, 50L, 40L))
})

test_that("objects with expression in HDF5 files and h5ad files give the bits of memory", {
  skip_without_engine()
  skip_if_not_installed("HDF5Array")
  skip_if_not_installed("SingleCellExperiment")
  features <- rownames(cells$data)[5:70]
  expected <- values(integrate(cells$data, features = features))
  object <- make_sce(cells)
  SummarizedExperiment::assay(object, "logcounts") <- methods::as(cells$data, "HDF5Array")
  object <- run(
    object, "system", "batch",
    features = features, options = small, process = "separate", memory = "4GB"
  )
  expect_identical(values(SingleCellExperiment::reducedDim(object, "sysVI")), expected)
  expect_s4_class(SummarizedExperiment::assay(object, "logcounts"), "DelayedMatrix")

  start_python()
  path <- withr::local_tempfile(fileext = ".h5ad")
  storage <- methods::as(methods::as(Matrix::t(cells$data), "RsparseMatrix"), "dgRMatrix")
  adata <- reticulate::import("anndata")$AnnData(
    storage,
    obs = cells$metadata, var = data.frame(row.names = rownames(cells$data))
  )
  adata$write_h5ad(path)
  x <- HDF5Array::H5ADMatrix(path)
  dimnames(x) <- dimnames(cells$data)
  expect_identical(values(integrate(x, features = features, memory = "4GB")), expected)
})

test_that("a Seurat object whose layers are on disk gives the bits of memory, in the order of its cells", {
  skip_without_engine()
  skip_if_not_installed("Seurat", "5.0.0")
  object <- make_seurat(cells)
  object[["RNA"]] <- split(object[["RNA"]], object$system)
  expected <- run(object, "system", "batch", options = small)
  for (layer in c("data.human", "data.mouse")) {
    x <- slot(object[["RNA"]], "layers")[[layer]]
    dimnames(x) <- list(
      SeuratObject::Features(object[["RNA"]], layer = layer), SeuratObject::Cells(object[["RNA"]], layer = layer)
    )
    slot(object@assays$RNA, "layers")[[layer]] <- file_matrix(x)
  }
  found <- run(object, "system", "batch", options = small, process = "separate", memory = "4GB")
  expect_identical(SeuratObject::Embeddings(found, "sysvi"), SeuratObject::Embeddings(expected, "sysvi"))
  expect_identical(SeuratObject::Misc(found[["sysvi"]], "sysVI"), SeuratObject::Misc(expected[["sysvi"]], "sysVI"))
})

test_that("genes that some systems lack are the same from disk", {
  skip_without_engine()
  lacking <- list(human = "gene03", mouse = c("gene05", "gene09"))
  x <- as.matrix(cells$data)
  for (system in names(lacking)) x[lacking[[system]], cells$metadata$system == system] <- 0
  x <- as(x, "CsparseMatrix")
  call <- function(...) integrate(x, lacking_genes = lacking, ...)
  z <- call()
  expect_true(all(unlist(lacking) %in% attr(z, "sysVI")$genes))
  expect_identical(call(memory = "4GB"), z)
})

test_that("a full disk is noticed while the expression is written", {
  skip_if_not(file.exists("/dev/full"))
  folder <- withr::local_tempdir()
  file.symlink("/dev/full", file.path(folder, "layer0.values"))
  described <- describe_cells(cells$data, metadata = cells$metadata)
  expect_sysvi_error(
    suppressWarnings(write_stream(folder, stream_expression(described, rownames(cells$data)))), # R warns of /dev/full
    "The expression cannot be written into .*problem writing.*free some space"
  )
})

test_that("what is wrong is said, and no file is left", {
  folder <- withr::local_tempdir()
  expect_sysvi_error(integrate(cells$data, memory = 4e9), "`memory` must be a string or NULL, not 4e\\+09")
  expect_sysvi_error(integrate(cells$data, folder = file.path(folder, "no")), "There is no folder .*no.*create it")
  anndata <- structure(list(), class = c("HDF5AnnData", "AbstractAnnData", "R6"))
  expect_sysvi_error(RunSysVI(anndata, "system"), "is of anndataR \\(HDF5AnnData\\).*IntegrateFilesSysVI")
  skip_without_engine()
  for (process in c("session", "separate")) {
    expect_sysvi_error(integrate(cells$data, memory = "1MB", process = process, folder = folder), "too little")
    expect_sysvi_error(integrate(cells$data, memory = "much", process = process, folder = folder), "memory is 'much'")
    expect_sysvi_error(integrate(cells$counts, memory = "1GB", process = process, folder = folder), "raw counts")
  }
  expect_length(list.files(folder, all.files = TRUE, no.. = TRUE), 0L)
})
