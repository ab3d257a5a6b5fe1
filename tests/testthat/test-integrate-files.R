# Files of cells that R does not load, written by Python.
cells <- make_cells()
folder <- withr::local_tempdir(.local_envir = teardown_env())

write_h5ad <- function(name, which, columns = c("system", "batch", "age")) {
  path <- file.path(folder, name)
  anndata <- reticulate::import("anndata")
  counts <- Matrix::t(cells$counts[, which])
  storage <- methods::as(methods::as(counts, "RsparseMatrix"), "dgRMatrix")
  adata <- anndata$AnnData(
    storage,
    obs = cells$metadata[which, columns, drop = FALSE],
    var = data.frame(row.names = rownames(cells$counts))
  )
  adata$write_h5ad(path)
  path
}

is_human <- cells$metadata$system == "human"
files <- once(function() {
  start_python()
  c(write_h5ad("human.h5ad", is_human), write_h5ad("mouse.h5ad", !is_human))
})
integrate <- function(files, ..., max_epochs = 1L, members = 1L, options = small, verbose = FALSE) {
  quietly(IntegrateFilesSysVI(
    files, "system", "batch", ...,
    max_epochs = max_epochs, members = members, options = options, verbose = verbose
  ))
}

test_that("cells of files have an embedding, their names and their columns", {
  skip_without_engine()
  z <- integrate(files(), continuous = "age", members = 2L)
  expect_identical(dim(z), c(240L, 15L))
  expect_setequal(rownames(z), rownames(cells$metadata))
  metadata <- attr(z, "metadata")
  expect_identical(rownames(metadata), rownames(z))
  expect_equal(metadata, cells$metadata[rownames(z), ], ignore_attr = TRUE)
  expect_identical(names(attr(z, "support")), rownames(z))
  expect_identical(attr(z, "sysVI")$systems, c("human", "mouse"))
  expect_setequal(basename(list.files(folder)), c("human.h5ad", "mouse.h5ad"))
})

test_that("both processes give the same bits, and a checkpoint changes nothing", {
  skip_without_engine()
  z <- integrate(files())
  expect_identical(values(integrate(files(), process = "separate")), values(z))
  kept <- file.path(folder, "kept")
  expect_identical(values(integrate(files(), checkpoint = kept)), values(z))
  expect_setequal(list.files(kept), c("member-0.safetensors", "run.json"))
  expect_identical(values(integrate(files(), checkpoint = kept)), values(z))
  expect_error(integrate(files(), checkpoint = kept, seed = 1L), "seed: 0 there, 1 here")
  unlink(kept, recursive = TRUE)
})

test_that("files without the column of the system get it", {
  skip_without_engine()
  start_python()
  paths <- c(write_h5ad("a.h5ad", is_human, "batch"), write_h5ad("b.h5ad", !is_human, "batch"))
  z <- integrate(paths, system_of_file = setNames(c("human", "mouse"), paths))
  expect_identical(attr(z, "metadata")$system, cells$metadata[rownames(z), "system"])
  withr::local_dir(folder)
  expect_identical(values(integrate(basename(paths), system_of_file = c("a.*" = "human", "b.*" = "mouse"))), values(z))
  expect_error(integrate(paths), "a.h5ad")
})

test_that("arguments that cannot be used are named", {
  expect_error(IntegrateFilesSysVI(character(), "system"), "`files` is empty")
  expect_error(IntegrateFilesSysVI(1, "system"), "`files` must be a character vector, not 1")
  expect_error(IntegrateFilesSysVI("a.h5ad", 2), "`system` must be a string")
  expect_error(IntegrateFilesSysVI("a.h5ad", "system", orthologs = "a.tsv"), "`orthologs` must be a named character")
  expect_error(IntegrateFilesSysVI("a.h5ad", "system", memory = 4e9), "`memory` must be a string")
  skip_without_engine()
  expect_error(integrate(file.path(folder, "absent.h5ad")), "absent.h5ad")
})
