skip_if_not_installed("Seurat")
cells <- make_cells()
split_object <- make_seurat(cells)
split_object[["RNA"]] <- split(split_object[["RNA"]], split_object$system)
integrate <- function(object, ..., members = 1) {
  suppressWarnings(Seurat::IntegrateLayers(
    object, SysVIIntegration,
    orig.reduction = NULL, new.reduction = "mix", max_epochs = 1, members = members, verbose = FALSE,
    options = small, ...
  ))
}

test_that("IntegrateLayers gives what RunSysVI gives on the same features", {
  skip_without_engine()
  expect_identical(attr(SysVIIntegration, "Seurat.method"), "integration")
  features <- rownames(split_object)[5:60]
  object <- integrate(split_object, features = features, scale.layer = "data", batch = split_object$batch)
  direct <- run(split_object, "system", "batch", features = features, options = small)
  expect_identical(
    values(SeuratObject::Embeddings(object, "mix")), values(SeuratObject::Embeddings(direct, "sysvi"))
  )
  expect_identical(SeuratObject::DefaultAssay(object[["mix"]]), "RNA")
})

test_that("orig is never evaluated, and the value is a named list", {
  skip_without_engine()
  value <- suppressWarnings(SysVIIntegration(
    split_object[["RNA"]],
    assay = "RNA", orig = stop("was evaluated"), layers = c("data.human", "data.mouse"),
    scale.layer = stop("was evaluated"), features = rownames(split_object), new.reduction = "x",
    max_epochs = 1, members = 1, verbose = FALSE, options = small
  ))
  expect_named(value, "x")
  expect_s4_class(value$x, "DimReduc")
  expect_identical(SeuratObject::Misc(value$x)$sysVI$systems, c("human", "mouse"))
})

test_that("an ensemble's support is in Misc() of the reduction, and a preset is used", {
  skip_without_engine()
  features <- rownames(split_object)
  object <- integrate(split_object, features = features, scale.layer = "data", batch = split_object$batch, members = 2)
  direct <- run(split_object, "system", "batch", features = features, options = small, members = 2)
  expect_identical(
    SeuratObject::Misc(object[["mix"]], "support"), setNames(direct$sysvi_support, colnames(split_object))
  )
  expect_identical(
    SeuratObject::Misc(object[["mix"]], "support_by_system"), SeuratObject::Misc(direct[["sysvi"]], "support_by_system")
  )
  expect_false("sysvi_support" %in% colnames(object[[]]))
  paper <- integrate(split_object, features = features, scale.layer = "data", preset = "paper")
  expect_identical(SeuratObject::Misc(paper[["mix"]])$sysVI$train_settings$swapped_covariates, "zero")
})

test_that("a joined assay needs `system`, a vector named by cell", {
  skip_without_engine()
  joined <- make_seurat(cells)
  features <- rownames(joined)
  expect_sysvi_error(
    integrate(joined, features = features, scale.layer = "data"),
    "is not split, so there are no systems.*system = object\\$species"
  )
  object <- integrate(joined, features = features, scale.layer = "data", system = joined$system)
  split <- integrate(split_object, features = features, scale.layer = "data")
  expect_identical(
    values(SeuratObject::Embeddings(object, "mix")), values(SeuratObject::Embeddings(split, "mix"))
  )
})

test_that("systems of an SCT assay are its models", {
  skip_without_engine()
  object <- suppressWarnings(Seurat::SCTransform(split_object, verbose = FALSE, n_genes = NULL, min_cells = 1))
  expect_s4_class(object[["SCT"]], "SCTAssay")
  integrated <- integrate(object, features = rownames(object[["SCT"]]))
  direct <- run(object, "system", features = SeuratObject::Features(object[["SCT"]], layer = "scale.data"),
                options = small)
  expect_identical(SeuratObject::Misc(integrated[["mix"]])$sysVI$systems, c("human", "mouse"))
  expect_identical(SeuratObject::DefaultAssay(integrated[["mix"]]), "SCT")
  expect_equal(dim(direct[["sysvi"]]), c(240L, 15L))
})
