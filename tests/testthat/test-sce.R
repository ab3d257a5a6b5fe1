skip_if_not_installed("SingleCellExperiment")
cells <- make_cells()

test_that("a SingleCellExperiment gets the embedding of the matrix, and the model in its metadata", {
  skip_without_engine()
  z <- run(cells$data, "system", "batch", metadata = cells$metadata, options = small)
  sce <- run(make_sce(cells), "system", "batch", options = small)
  expect_identical(SingleCellExperiment::reducedDimNames(sce), "sysVI")
  expect_identical(values(SingleCellExperiment::reducedDim(sce, "sysVI")), values(z))
  expect_identical(rownames(SingleCellExperiment::reducedDim(sce, "sysVI")), colnames(sce))
  expect_s3_class(S4Vectors::metadata(sce)$sysVI, "SysVIModel")
  named <- run(make_sce(cells), "system", name = "mix", options = small)
  expect_identical(SingleCellExperiment::reducedDimNames(named), "mix")
})

test_that("support is in colData and metadata until a single model replaces the ensemble", {
  skip_without_engine()
  z <- run_ensemble(cells$data, "system", metadata = cells$metadata, options = small)
  sce <- run_ensemble(make_sce(cells), "system", options = small)
  expect_identical(values(SingleCellExperiment::reducedDim(sce, "sysVI")), values(z))
  expect_identical(sce$sysvi_support, unname(attr(z, "support")))
  expect_identical(S4Vectors::metadata(sce)$sysVI_support_by_system, attr(z, "support_by_system"))
  sce <- run(sce, "system", options = small)
  expect_false("sysvi_support" %in% colnames(SummarizedExperiment::colData(sce)))
  expect_named(S4Vectors::metadata(sce), "sysVI")
})

test_that("the error for a SummarizedExperiment says how to convert it", {
  object <- SummarizedExperiment::SummarizedExperiment(list(logcounts = cells$data), colData = cells$metadata)
  expect_sysvi_error(run(object, "system"), "as\\(object, \"SingleCellExperiment\"\\)")
  skip_without_engine()
  object <- suppressPackageStartupMessages(as(object, "SingleCellExperiment"))
  expect_s4_class(run(object, "system", options = small), "SingleCellExperiment")
})

test_that("errors name the assay", {
  sce <- make_sce(cells)
  SummarizedExperiment::assay(sce, "logcounts") <- NULL
  expect_sysvi_error(
    run(sce, "system"), "no assay 'logcounts' \\(it has 'counts'\\): run `object <- scater::logNormCounts"
  )
  skip_without_engine()
  expect_sysvi_error(run(sce, "system", assay = "counts"), "Assay 'counts' looks like raw counts")
})
