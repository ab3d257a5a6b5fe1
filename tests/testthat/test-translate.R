# Expression of cells in another system, decoded by a model that was trained once.
cells <- make_cells()
model <- once(function() {
  run(cells$data, "system", "batch", metadata = cells$metadata, options = small, members = 2L)
})
translate <- function(object = cells$data, reference = model(), ..., metadata = cells$metadata, verbose = FALSE) {
  TranslateExpression(object, reference, ..., metadata = metadata, verbose = verbose)
}
is_human <- cells$metadata$system == "human"

test_that("a matrix gives genes x cells of the model, not below 0", {
  skip_without_engine()
  x <- translate(to_system = "mouse")
  expect_identical(colnames(x), colnames(cells$data))
  expect_identical(rownames(x), attr(model(), "sysVI")$genes)
  expect_gte(min(x), 0)
  own <- translate()
  mouse <- translate(cells$data[, !is_human], to_system = "mouse", metadata = cells$metadata[!is_human, ])
  expect_equal(x[, !is_human], mouse, tolerance = 1e-5) # cells of the target are only denoised
  expect_equal(x[, !is_human], own[, !is_human], tolerance = 1e-5)
  expect_gt(max(abs(x[, is_human] - own[, is_human])), 0.1)
})

test_that("Seurat object and SingleCellExperiment get the same bits, in both processes", {
  skip_without_engine()
  x <- translate(to_system = "mouse", to_batch = "average")
  arguments <- function(object, ...) {
    quietly(TranslateExpression(object, model(), "mouse", "average", ..., verbose = FALSE))
  }
  expect_identical(translate(to_system = "mouse", to_batch = "average", process = "separate"), x)

  skip_if_not_installed("SeuratObject")
  for (version in c("v3", "v5")) {
    expect_no_warning(object <- arguments(make_seurat(cells, version)))
    expect_identical(SeuratObject::Assays(object), c("RNA", "translated"))
    expect_identical(SeuratObject::DefaultAssay(object), "RNA")
    expect_identical(as.matrix(SeuratObject::LayerData(object, layer = "data", assay = "translated")), x)
  }
  object <- arguments(object, new.assay.name = "inMouse")
  expect_true("inMouse" %in% SeuratObject::Assays(object))

  skip_if_not_installed("SingleCellExperiment")
  sce <- arguments(make_sce(cells))
  expect_identical(SummarizedExperiment::assay(SingleCellExperiment::altExp(sce, "translated"), "logcounts"), x)
  expect_identical(rownames(sce), rownames(cells$data))
})

test_that("the model of the object itself is the default, and counts are taken", {
  skip_without_engine()
  skip_if_not_installed("SeuratObject")
  object <- run(make_seurat(cells), "system", "batch", options = small, members = 2L)
  expect_no_warning(object <- TranslateExpression(object, to_system = "mouse", verbose = FALSE))
  x <- translate(to_system = "mouse")
  expect_identical(as.matrix(SeuratObject::LayerData(object, layer = "data", assay = "translated")), x)
  folder <- withr::local_tempdir()
  SaveSysVI(object, folder)
  expect_identical(translate(reference = folder, to_system = "mouse"), x)
  expect_no_warning(counts <- translate(cells$counts, to_system = "mouse"))
  expect_equal(counts, x, tolerance = 1e-4)
})

test_that("genes come in the order in which they are named", {
  skip_without_engine()
  x <- translate(to_system = "human")
  genes <- rownames(x)[c(9, 2, 30)]
  expect_identical(translate(to_system = "human", genes = genes), x[genes, ])
  expect_identical(translate(cells$data[80:1, ], to_system = "human", genes = genes[1]), x[genes[1], , drop = FALSE])
})

test_that("a new system is translated with the result of MapSysVI()", {
  skip_without_engine()
  rats <- transform(cells$metadata, system = "rat", batch = "rat1")
  expect_sysvi_error(
    translate(to_system = "human", metadata = rats),
    "'system' has rat, which the model does not know .*: let it learn them with MapSysVI\\(\\) first"
  )
  mapped <- quietly(MapSysVI(cells$data, model(), metadata = rats, max_epochs = 2L, verbose = FALSE))
  expected <- dim(translate())
  expect_identical(dim(translate(reference = mapped, to_system = "human", metadata = rats)), expected)
  expect_identical(dim(translate(reference = mapped, to_system = "rat")), expected)
})

test_that("what cannot be translated is refused in one sentence", {
  skip_without_engine()
  refused <- list(
    list(quote(translate(to_system = "rat")), "to_system is 'rat', but the model knows the systems human, mouse"),
    list(quote(translate(to_system = 1)), "`to_system` must be a string"),
    list(quote(translate(to_batch = "b")), "to_batch is 'b', but the model knows the batches human1"),
    list(quote(translate(genes = "INS")), "The model lacks 1 of the 1 genes that were asked for \\(INS\\)"),
    list(quote(translate(genes = character())), "genes is empty"),
    list(quote(translate(genes = 3)), "`genes` must be a character vector"),
    list(quote(translate(reference = matrix(1))), "holds no sysVI model: run RunSysVI"),
    list(quote(translate(metadata = NULL)), "system = \"system\" is not a column of the metadata"),
    list(quote(translate(cells$data - 1)), "negative values, so it is scaled"),
    list(quote(translate(cells$data[1:5, ])), "more than half")
  )
  for (row in refused) expect_sysvi_error(eval(row[[1]]), row[[2]])
  expect_error(translate(overwrite = TRUE), class = "rlib_error_dots_nonempty")
  expect_warning(translate(to_system = "mouse", to_batch = "human1"), "no cells of human1 .*extrapolation")
  skip_if_not_installed("SeuratObject")
  expect_sysvi_error(
    TranslateExpression(make_seurat(cells), model(), new.assay.name = "RNA", verbose = FALSE),
    "is 'RNA', the assay with the expression: choose another name"
  )
})
