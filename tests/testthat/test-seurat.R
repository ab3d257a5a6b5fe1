skip_if_not_installed("SeuratObject")
cells <- make_cells()

test_that("all kinds of assay give the embedding of the matrix, in the order of the object", {
  skip_without_engine()
  z <- run(cells$data, "system", "batch", metadata = cells$metadata, options = small)
  joined <- make_seurat(cells)
  split <- joined
  split[["RNA"]] <- split(split[["RNA"]], split$system)
  objects <- list(v5 = joined, split = split, v3 = make_seurat(cells, "v3"))
  for (kind in names(objects)) {
    object <- run(objects[[kind]], "system", "batch", options = small)
    expect_identical(values(SeuratObject::Embeddings(object, "sysvi")), values(z), label = kind)
    expect_identical(SeuratObject::Cells(object[["sysvi"]]), colnames(joined))
  }
})

test_that("the result has names, key, assay, stdev, model and command", {
  skip_without_engine()
  object <- run(make_seurat(cells), "system", "batch", options = small, n_latent = 3L)
  reduction <- object[["sysvi"]]
  expect_identical(SeuratObject::Key(reduction), "sysvi_")
  expect_identical(colnames(reduction), paste0("sysvi_", 1:3))
  expect_identical(SeuratObject::DefaultAssay(reduction), "RNA")
  expect_equal(SeuratObject::Stdev(reduction), unname(apply(SeuratObject::Embeddings(reduction), 2, sd)),
               ignore_attr = TRUE)
  model <- SeuratObject::Misc(reduction)$sysVI
  expect_s3_class(model, "SysVIModel")
  expect_identical(model$systems, c("human", "mouse"))
  command <- SeuratObject::Command(object, "RunSysVI.RNA")
  expect_identical(command@params$system, "system")
  other <- run(make_seurat(cells), "system", reduction.name = "mix", reduction.key = "mix_", options = small)
  expect_identical(colnames(other[["mix"]])[1], "mix_1")
})

test_that("support is in the metadata until a single model replaces the ensemble", {
  skip_without_engine()
  z <- run_ensemble(cells$data, "system", metadata = cells$metadata, options = small)
  object <- make_seurat(cells)
  object[["RNA"]] <- split(object[["RNA"]], object$system)
  object <- run_ensemble(object, "system", options = small)
  expect_identical(values(SeuratObject::Embeddings(object, "sysvi")), values(z))
  expect_identical(object$sysvi_support, attr(z, "support"))
  expect_identical(SeuratObject::FetchData(object, "sysvi_support")[[1]], unname(attr(z, "support")))
  expect_identical(SeuratObject::Misc(object[["sysvi"]], "support_by_system"), attr(z, "support_by_system"))
  object <- run(object, "system", options = small)
  expect_false("sysvi_support" %in% colnames(object[[]]))
  expect_named(SeuratObject::Misc(object[["sysvi"]]), "sysVI")
})

test_that("layers may differ in the order of cells and genes; their shared genes are used", {
  skip_without_engine()
  z <- run(cells$data, "system", metadata = cells$metadata, features = rownames(cells$data)[1:50], options = small)
  human <- cells$metadata$system == "human"
  object <- make_seurat(cells)
  backwards <- rev(which(human))
  layers <- list(
    human = list(name = "human", x = cells$data[80:1, backwards]),
    mouse = list(name = "mouse", x = cells$data[c(60:1, 70), !human])
  )
  layers <- lapply(layers, function(l) c(l, list(genes = rownames(l$x), cells = colnames(l$x))))
  described <- new_cells(layers, colnames(cells$data), cells$metadata, "the layers", c(cells = "remedy"))
  z_layers <- run(described, "system", features = rownames(cells$data)[1:50], options = small)
  expect_identical(values(z_layers), values(z))
  expect_identical(select_genes(described), rownames(cells$data)[c(70, 60:1)])
})

test_that("errors name assay and layer", {
  object <- make_seurat(cells)
  expect_sysvi_error(run(object, "system", assay = "ADT"), "no assay 'ADT': choose one of 'RNA'")
  expect_sysvi_error(run(object, "system", layer = "lognorm"), "Assay 'RNA' has no layer 'lognorm'.*'counts', 'data'")
  for (layer in list(NULL, 1, NA_character_)) {
    expect_sysvi_error(run(object, "system", layer = layer), "`layer` must name one")
  }
  raw <- SeuratObject::CreateSeuratObject(cells$counts, meta.data = cells$metadata)
  expect_sysvi_error(run(raw, "system"), "Assay 'RNA' has no layer 'data'.*NormalizeData\\(object, assay = \"RNA\"\\)")
  object[["RNA"]] <- split(object[["RNA"]], object$system)
  expect_sysvi_error(run(object, "system", layer = "data.human"), "lacks 120 of the 240 cells")
  layers <- c("data", "data.human", "data.mouse", "counts")
  expect_sysvi_error(run(object, "system", layer = layers), "in more than one of the layers")
  skip_without_engine()
  expect_sysvi_error(run(object, "system", layer = "counts"), "Layer 'counts' of assay 'RNA' looks like raw counts")
})

test_that("an object of one cell, whose layers are plain vectors, is embedded", {
  skip_without_engine()
  object <- run(make_seurat(cells), "system", options = small)
  model <- SeuratObject::Misc(object[["sysvi"]])$sysVI
  one <- make_seurat(cells)[, "cell002"]
  z <- SeuratObject::Embeddings(object, "sysvi")["cell002", , drop = FALSE]
  expect_equal(values(predict(model, one, verbose = FALSE)), values(z), tolerance = 1e-5)
})

test_that("arguments after batch may be given by position, and metadata are those of the object", {
  object <- make_seurat(cells)
  for (call in list(RunSysVI, TuneSysVI)) {
    expect_sysvi_error(call(object, "system", metadata = cells$metadata), "`metadata` is for matrices only")
  }
  expect_sysvi_error(
    BatchStrength(object, "system", "batch", "system", metadata = cells$metadata), "`metadata` is for matrices only"
  )
  expect_sysvi_error(RunSysVI(object, "system", NULL, "sex"), "covariates = \"sex\" is not a column")
  expect_sysvi_error(RunSysVI(object, "system", NULL, "batch", "sex"), "continuous = \"sex\" is not a column")
})

test_that("results survive saveRDS", {
  skip_without_engine()
  object <- run(make_seurat(cells), "system", options = small)
  file <- withr::local_tempfile(fileext = ".rds")
  saveRDS(object, file)
  back <- readRDS(file)
  embedded <- predict(SeuratObject::Misc(back[["sysvi"]])$sysVI, back, verbose = FALSE)
  expect_identical(values(embedded), values(SeuratObject::Embeddings(object, "sysvi")))
})
