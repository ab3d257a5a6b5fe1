# Two systems with three samples each, and two cell types; genes have other means in mouse than in human.
cells <- make_cells(360L)
cells$metadata$type <- rep(c("alpha", "alpha", "beta", "beta"), length.out = 360)
cells$metadata$donor <- paste0(cells$metadata$system, rep(1:3, each = 2, length.out = 360))
strength <- function(object, ..., min_cells = 10, verbose = FALSE) {
  BatchStrength(object, "system", "donor", "type", ..., min_cells = min_cells, verbose = verbose)
}
strength_of_matrix <- function(...) strength(cells$data, metadata = cells$metadata, ...)

# The same by the engine's Python function, without the package's R code.
compute_in_python <- function(min_cells = 10L) {
  import_bridge()
  pandas <- reticulate::import("pandas", convert = FALSE)
  x <- reticulate::import("numpy", convert = FALSE)$array(t(as.matrix(cells$data)), dtype = "float32")
  obs <- pandas$DataFrame(lapply(cells$metadata[c("system", "donor", "type")], as.list),
    index = rownames(cells$metadata)
  )
  adata <- reticulate::import("anndata", convert = FALSE)$AnnData(x, obs)
  sysvi <- reticulate::import("sysvi", convert = FALSE)
  reticulate::import("warnings")$simplefilter("ignore")
  chosen <- sysvi$prepare(adata, "system", "donor", normalize = FALSE)
  found <- sysvi$batch_strength(chosen, "system", "donor", "type", min_cells = min_cells)
  list(
    table = reticulate::py_to_r(found$table$to_numpy("float64")),
    groups = reticulate::py_to_r(found$table$reset_index()$filter(c("label", "system"))),
    distances = reticulate::py_to_r(found$distances),
    substantial = reticulate::py_to_r(found$substantial), advice = reticulate::py_to_r(found$advice)
  )
}

test_that("table, distances and advice are those of Python", {
  skip_without_engine()
  found <- strength_of_matrix()
  python <- compute_in_python()
  expect_s3_class(found, "SysVIBatchStrength")
  expect_equal(as.matrix(found$table[-(1:2)]), python$table, ignore_attr = TRUE)
  expect_equal(found$table[1:2], python$groups, ignore_attr = TRUE)
  expect_equal(found$distances, python$distances, ignore_attr = TRUE)
  expect_identical(found$advice, python$advice)
  expect_identical(found$substantial, python$substantial)
  expect_true(found$substantial)
  expect_identical(strength_of_matrix(process = "separate"), found)
})

test_that("objects give the result of the matrix, and columns may be vectors named by cell", {
  skip_without_engine()
  found <- strength_of_matrix()
  named <- lapply(as.list(cells$metadata), setNames, rownames(cells$metadata))
  by_vector <- BatchStrength(cells$data, named$system, named$donor, named$type, min_cells = 10, verbose = FALSE)
  expect_identical(by_vector, found)
  expect_false(identical(strength_of_matrix(features = rownames(cells$data)[1:20]), found))
  skip_if_not_installed("SeuratObject")
  object <- make_seurat(cells)
  expect_identical(strength(object), found)
  object[["RNA"]] <- split(object[["RNA"]], object$system)
  expect_identical(strength(object), found)
  skip_if_not_installed("SingleCellExperiment")
  expect_identical(strength(make_sce(cells)), found)
})

test_that("`substantial` is NA if it cannot be judged, and the advice says why", {
  skip_without_engine()
  found <- strength_of_matrix(min_cells = 1000)
  expect_identical(found$substantial, NA)
  expect_identical(found$advice, compute_in_python(1000L)$advice)
  expect_identical(dim(found$table), c(0L, 12L))
  expect_identical(dim(found$distances), c(0L, 7L))
  expect_output(print(found), "cannot be judged")
  skip_if_not_installed("ggplot2")
  expect_sysvi_error(plot(found), "no distances to draw")
})

test_that("cells without a cell type are left out, with a warning", {
  skip_without_engine()
  partly <- cells$metadata
  partly$type[1:3] <- NA
  partly$type[4L] <- "Unknown"
  expect_warning(found <- strength(cells$data, metadata = partly), "4 of [0-9]+ cells")
  expect_equal(found$table, strength(cells$data[, -(1:4)], metadata = partly[-(1:4), ])$table)
})

test_that("errors name columns and layers", {
  expect_error(strength_of_matrix(cutoff = 5), "must be empty.*cutoff = 5", class = "rlib_error_dots_nonempty")
  unlabelled <- cells$metadata
  unlabelled$donor[1:3] <- NA
  expect_sysvi_error(
    strength(cells$data, metadata = unlabelled),
    "'donor' \\(batch\\) has 3 missing values: fill them in or remove these cells"
  )
  by_label <- function(label) BatchStrength(cells$data, "system", "donor", label, metadata = cells$metadata)
  expect_sysvi_error(by_label("kind"), "label = \"kind\" is not a column of the metadata")
  expect_sysvi_error(by_label("donor"), "'donor' is named more than once")
  human <- cells$metadata$system == "human"
  expect_sysvi_error(
    BatchStrength(cells$data[, human], "system", "donor", "batch", metadata = cells$metadata),
    "'system' \\(system\\) holds one system only \\(human\\)"
  )
  skip_without_engine()
  expect_sysvi_error(
    BatchStrength(cells$counts, "system", "donor", "batch", metadata = cells$metadata),
    "The matrix looks like raw counts"
  )
  expect_sysvi_error(strength_of_matrix(min_cells = 0), "min_cells")
})

test_that("print shows advice and table, plot shows the distances", {
  table <- data.frame(label = "alpha", system = c("human", "mouse"), n_samples = 3, ratio = c(2.3456, NA))
  distances <- data.frame(
    label = "alpha", kind = c("within", "between", "between"), system_1 = "human", batch_1 = c("a", "a", "b"),
    system_2 = c("human", "mouse", "mouse"), batch_2 = c("b", "c", "c"), distance = c(1, 4, 6)
  )
  found <- structure(
    list(table = table, distances = distances, substantial = TRUE, advice = "Integrate with sysVI."),
    class = "SysVIBatchStrength"
  )
  expect_snapshot(found)
  skip_if_not_installed("ggplot2")
  drawn <- plot(found)
  expect_s3_class(drawn, "ggplot")
  expect_silent(ggplot2::ggplot_build(drawn))
})
