# New cells on a model. The reference lacks the batch "mouse2" and, in the last tests, a cell type.
cells <- make_cells()
cells$metadata$type <- rep(c("T", "B", NA), 80)
part <- function(chosen) {
  list(counts = cells$counts[, chosen], data = cells$data[, chosen], metadata = cells$metadata[chosen, ])
}
is_new <- cells$metadata$batch == "mouse2"
known <- part(!is_new)
query <- part(is_new)
train <- function(object = known$data, ..., members = 2L) {
  run(object, "system", "batch", ..., options = small, members = members)
}
reference <- once(function() train(metadata = known$metadata))
map <- function(object = query$data, onto = reference(), ..., max_epochs = 2L, verbose = FALSE) {
  MapSysVI(object, onto, ..., max_epochs = max_epochs, verbose = verbose)
}
map_matrix <- function(..., metadata = query$metadata) map(..., metadata = metadata)

test_that("matrix, Seurat object and SingleCellExperiment get the same bits, in both processes", {
  skip_without_engine()
  label <- setNames(known$metadata$type, colnames(known$data))
  z <- map_matrix(label = label, reference_metadata = known$metadata)
  expect_identical(rownames(z), colnames(query$data))
  expect_identical(colnames(z), paste0("sysvi_", 1:15))
  expect_named(attr(z, "labels"), c("label_transferred", "label_confidence", "label_novelty"))
  expect_identical(attr(z, "missing_genes"), character())
  expect_null(attr(z, "support"))
  columns <- c("type_transferred", "type_confidence", "type_novelty")
  labels <- setNames(attr(z, "labels"), columns)

  skip_if_not_installed("SeuratObject")
  onto <- train(make_seurat(known))
  for (version in c("v3", "v5")) {
    object <- map(make_seurat(query, version), onto, "type")
    expect_identical(values(SeuratObject::Embeddings(object[["sysvi"]])), values(z))
    expect_identical(object[[columns]], labels)
    expect_identical(SeuratObject::Misc(object[["sysvi"]])$sysVI, attr(z, "sysVI"))
    expect_named(SeuratObject::Misc(object[["sysvi"]]), c("sysVI", "missing_genes"))
  }

  skip_if_not_installed("SingleCellExperiment")
  sce <- map(make_sce(query), onto, "type", process = "separate", name = "mapped")
  expect_identical(values(SingleCellExperiment::reducedDim(sce, "mapped")), values(z))
  expect_identical(as.data.frame(SummarizedExperiment::colData(sce))[columns], labels)
  expect_identical(S4Vectors::metadata(sce)$mapped, attr(z, "sysVI"))
  sce <- map(make_sce(query), train(make_sce(known)), "type")
  expect_identical(values(SingleCellExperiment::reducedDim(sce, "sysVI")), values(z))
  expect_identical(as.data.frame(SummarizedExperiment::colData(sce))[columns], labels)
})

test_that("cells of known batches are encoded, as by predict()", {
  skip_without_engine()
  again <- map_matrix(known$data, metadata = known$metadata)
  expect_identical(values(again), values(reference()))
  model <- attr(reference(), "sysVI")
  expect_identical(values(map_matrix(known$data, model, metadata = known$metadata)), values(reference()))
  heard <- capture_messages(map_matrix(known$data, metadata = known$metadata, verbose = TRUE))
  expect_match(paste(gsub("\\s+", " ", heard), collapse = ""), "human1, human2, mouse1 known.*nothing is trained")
})

test_that("the stored model knows new batches and systems, and the reference does not move", {
  skip_without_engine()
  z <- map_matrix()
  extended <- attr(z, "sysVI")
  expect_identical(extended$categorical$batch, c(attr(reference(), "sysVI")$categorical$batch, "mouse2"))
  folder <- withr::local_tempdir()
  SaveSysVI(z, folder)
  for (onto in list(extended, folder, file.path(folder, "model.safetensors"))) {
    expect_identical(values(map_matrix(onto = onto)), values(z))
  }
  expect_identical(values(predict(extended, query$data, query$metadata, verbose = FALSE)), values(z))
  expect_identical(
    values(predict(extended, known$data, known$metadata, verbose = FALSE)), values(reference())
  )
  rats <- transform(query$metadata, system = "rat", batch = "rat1")
  z <- map_matrix(metadata = rats)
  expect_identical(attr(z, "sysVI")$systems, c("human", "mouse", "rat"))
  expect_identical(
    values(predict(attr(z, "sysVI"), known$data, known$metadata, verbose = FALSE)), values(reference())
  )
})

test_that("columns have any name or are vectors, and the seed counts", {
  skip_without_engine()
  z <- map_matrix()
  renamed <- setNames(query$metadata, c("species", "donor", "age", "type"))
  expect_identical(map_matrix(metadata = renamed, system = "species", batch = "donor"), z)
  named <- lapply(query$metadata, setNames, rownames(query$metadata))
  expect_identical(map(system = named$system, batch = named$batch), z)
  expect_false(identical(values(map_matrix(seed = 1L)), values(z)))
})

test_that("genes in any order, further ones, other species and missing ones are taken", {
  skip_without_engine()
  z <- map_matrix()
  more <- rbind(query$data[80:1, ], query$data[1:3, ])
  rownames(more)[81:83] <- c("x1", "x2", "x3")
  expect_identical(values(map_matrix(more)), values(z))
  mouse <- query$data
  rownames(mouse) <- paste0("m", rownames(mouse))
  pairs <- data.frame(human = rownames(query$data), mouse = rownames(mouse))
  file <- withr::local_tempfile(fileext = ".csv")
  write.csv(pairs, file, row.names = FALSE)
  for (orthologs in list(pairs, file)) expect_identical(values(map_matrix(mouse, orthologs = orthologs)), values(z))
  gene <- attr(reference(), "sysVI")$genes[3]
  lacking <- map_matrix(query$data[setdiff(rownames(query$data), gene), ])
  expect_identical(attr(lacking, "missing_genes"), gene)
})

test_that("counts are recognised, and normalised as the cells of the model were", {
  skip_without_engine()
  expect_no_warning(z <- map_matrix(query$counts)) # all cells of the model have one total
  expect_equal(values(z), values(map_matrix()), tolerance = 1e-4) # log1p of counts per 10,000, rounded once more
  skip_if_not_installed("SeuratObject")
  object <- SeuratObject::CreateSeuratObject(query$counts, meta.data = query$metadata)
  object <- map(object)
  expect_identical(values(SeuratObject::Embeddings(object[["sysvi"]])), values(z))
  skip_if_not_installed("SingleCellExperiment")
  sce <- make_sce(query)
  SummarizedExperiment::assay(sce, "logcounts") <- NULL
  expect_identical(values(SingleCellExperiment::reducedDim(map(sce), "sysVI")), values(z))
})

test_that("a type that the reference lacks is unknown, and shared types get their label", {
  skip_without_engine()
  simulated <- SimulateSystems(500L, 120L, n_types = 4L, n_private = 0L, n_samples = 2L, n_markers = 15L, seed = 1L)
  metadata <- simulated$metadata
  x <- simulated$counts
  x@x <- log1p(x@x / rep(Matrix::colSums(x), diff(x@p)) * 1e4)
  is_new <- metadata$batch == "system1_sample1"
  is_known <- !is_new & metadata$cell_type != "type1"
  onto <- quietly(RunSysVI(
    x[, is_known], "system", "batch",
    metadata = metadata, members = 2L, preset = "mixing", n_latent = 5L, seed = 1L, verbose = FALSE
  ))
  folder <- file.path(withr::local_tempdir(), "reference")
  save <- function(...) {
    SaveReferenceSysVI(onto, folder, "cell_type", licence = "cc0-1.0", metadata = metadata, verbose = FALSE, ...)
  }
  expect_identical(save(), folder)
  expect_setequal(list.files(folder), c("README.md", "cells.h5ad", "config.json", "model.safetensors"))
  expect_sysvi_error(save(), "overwrite = TRUE")
  expect_identical(save(overwrite = TRUE), folder)
  find_labels_of <- function(...) {
    z <- MapSysVI(x[, is_new], ..., label = "cell_type", metadata = metadata, verbose = FALSE)
    attr(z, "labels")
  }
  found <- find_labels_of(onto, reference_metadata = metadata)
  expect_identical(find_labels_of(folder), found)
  own <- metadata$cell_type[is_new]
  is_unknown <- found$cell_type_transferred == "unknown"
  expect_gt(mean(is_unknown[own == "type1"]), 0.5)
  expect_lt(mean(is_unknown[own %in% c("type2", "type3")]), 0.3)
  labelled <- !is_unknown & own != "type1"
  expect_gt(mean(found$cell_type_transferred[labelled] == own[labelled]), 0.95)
  expect_true(all(found$cell_type_novelty[!is_unknown] <= 1 & found$cell_type_confidence[!is_unknown] >= 0.5))
  expect_sysvi_error(find_labels_of(attr(onto, "sysVI")), "A model has no labels: give the object that RunSysVI")
  SaveSysVI(onto, file.path(folder, "model"))
  expect_sysvi_error(find_labels_of(file.path(folder, "model")), "holds a model, but no labelled cells")
  expect_sysvi_error(
    MapSysVI(x[, is_new], folder, "leiden", metadata = metadata, verbose = FALSE),
    "label='leiden' is not a column of the metadata of the reference"
  )
})

test_that("what cannot be mapped is refused in one sentence", {
  skip_without_engine()
  refused <- list(
    list(quote(map(onto = matrix(1))), "holds no sysVI model: run RunSysVI"),
    list(quote(map(onto = "no such folder")), "There is no saved model at"),
    list(quote(map()), "system = \"system\" is not a column of the metadata"),
    list(quote(map_matrix(batch = "donor")), "batch = \"donor\" is not a column of the metadata"),
    list(quote(map_matrix(metadata = transform(query$metadata, batch = NA))), "'batch' \\(batch\\) has 60 missing"),
    list(quote(map_matrix(query$data[1:5, ])), "The query lacks .* more than half"),
    list(quote(map_matrix(query$data - 1)), "negative values, so it is scaled"),
    list(quote(map_matrix(replace(query$data, 3, NaN))), "missing or not finite"),
    list(quote(map_matrix(orthologs = "none.tsv")), "no orthologue table"),
    list(quote(map_matrix(query$data[, 1:5], metadata = transform(query$metadata, system = "rat"))), "'rat' is new"),
    list(quote(map_matrix(label = "type")), "label = \"type\" is not a column of the metadata"),
    list(quote(map_matrix(label = setNames(rep("none", 180), colnames(known$data)))), "label"),
    list(quote(map_matrix(seed = 0.5)), "`seed` must be a whole number"),
    list(quote(map_matrix(max_epochs = 0L)), "max_epochs"),
    list(quote(SaveReferenceSysVI(attr(reference(), "sysVI"), tempfile(), NULL, "mit")), "must be the object"),
    list(quote(SaveReferenceSysVI(reference(), tempfile(), "type", "mit")), "is not a column of the metadata"),
    list(quote(SaveReferenceSysVI(reference(), tempfile(), "type", NULL)), "`licence` must be a string")
  )
  for (row in refused) expect_sysvi_error(eval(row[[1]]), row[[2]])
  without <- run(known$data, "system", metadata = known$metadata, options = small)
  expect_sysvi_error(map_matrix(onto = without, batch = "batch"), "trained without batches: leave `batch` out")
  expect_error(map_matrix(overwrite = TRUE), class = "rlib_error_dots_nonempty")
})

test_that("the model must be named if the reference holds several", {
  skip_without_engine()
  skip_if_not_installed("SeuratObject")
  object <- train(make_seurat(known))
  object <- train(object, reduction.name = "second", reduction.key = "second_", seed = 1L)
  expect_sysvi_error(map_matrix(onto = object), "holds 2 models: choose one with `reference_name`")
  z <- map_matrix(onto = object, reference_name = "sysvi", label = "type")
  expect_identical(values(z), values(map_matrix()))
})
