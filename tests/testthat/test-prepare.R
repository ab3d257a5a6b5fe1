cells <- make_cells()
human <- cells$counts[, cells$metadata$system == "human"]
mouse <- cells$counts[, cells$metadata$system == "mouse"]
rownames(mouse) <- sub("gene", "Gene", rownames(mouse))
pairs <- data.frame(human = rownames(human), mouse = rownames(mouse), source = "test")
join <- function(objects, orthologs = pairs, ..., min_cells = 3L) {
  suppressWarnings(PrepareSystems(objects, orthologs, ..., min_cells = min_cells, verbose = FALSE))
}

test_that("matrices are joined with the gene names of the first one and normalised over the shared genes", {
  skip_without_engine()
  joined <- join(list(human = human, mouse = mouse[80:1, ]))
  expect_identical(colnames(joined$counts), c(colnames(human), colnames(mouse)))
  expect_identical(as.character(joined$metadata$system), rep(c("human", "mouse"), each = 120))
  genes <- rownames(joined$counts)
  expect_identical(genes, rownames(human)[rownames(human) %in% genes])
  expect_equal(as.matrix(joined$counts), cbind(as.matrix(human), as.matrix(cells$counts[, colnames(mouse)]))[genes, ])
  seen <- rowSums(as.matrix(human) > 0) > 3 & rowSums(as.matrix(mouse) > 0) > 3
  expect_identical(genes, unname(rownames(human)[seen]))
  by_hand <- log1p(t(t(as.matrix(joined$counts)) / Matrix::colSums(joined$counts)) * 1e4)
  expect_equal(as.matrix(joined$expression), by_hand, tolerance = 1e-6)
  separate <- join(list(human = human, mouse = mouse[80:1, ]), process = "separate")
  expect_identical(separate, joined)
})

test_that("orthologues with several targets are dropped, shared targets dropped or summed", {
  skip_without_engine()
  twice <- pairs
  twice$human[twice$human == "gene05"] <- "gene06" # Gene05 and Gene06 are both gene06
  expect_false("gene06" %in% rownames(join(list(human = human, mouse = mouse), twice)$counts))
  summed <- join(list(human = human, mouse = mouse), twice, duplicates = "sum")$counts
  expect_equal(summed["gene06", colnames(mouse)], colSums(as.matrix(mouse[c("Gene05", "Gene06"), ])))
  file <- withr::local_tempfile(fileext = ".csv")
  write.csv(pairs, file, row.names = FALSE)
  expect_identical(join(list(human = human, mouse = mouse), file), join(list(human = human, mouse = mouse)))
})

test_that("Seurat objects and SingleCellExperiments are returned as such, ready for RunSysVI", {
  skip_without_engine()
  skip_if_not_installed("SeuratObject")
  skip_if_not_installed("SingleCellExperiment")
  plain <- join(list(human = human, mouse = mouse))
  seurat <- lapply(list(human = human, mouse = mouse), function(counts) {
    SeuratObject::CreateSeuratObject(counts, meta.data = cells$metadata[colnames(counts), "batch", drop = FALSE])
  })
  object <- join(seurat)
  expect_equal(as.matrix(SeuratObject::LayerData(object, "data")), as.matrix(plain$expression))
  expect_identical(unname(object$batch), cells$metadata[colnames(object), "batch"])
  sce <- lapply(list(human = human, mouse = mouse), function(counts) {
    SingleCellExperiment::SingleCellExperiment(
      list(counts = counts), colData = cells$metadata[colnames(counts), "batch", drop = FALSE]
    )
  })
  joined <- join(sce)
  expect_equal(as.matrix(SummarizedExperiment::assay(joined, "logcounts")), as.matrix(plain$expression))
  z <- run(plain$expression, "system", metadata = plain$metadata, options = small)
  expect_identical(values(SeuratObject::Embeddings(run(object, "system", options = small), "sysvi")), values(z))
  expect_identical(values(SingleCellExperiment::reducedDim(run(joined, "system", options = small))), values(z))
})

test_that("log-normalised Seurat objects are joined without a warning about missing counts", {
  skip_without_engine()
  skip_if_not_installed("SeuratObject")
  objects <- lapply(c(human = "human", mouse = "mouse"), function(s) {
    subset(make_seurat(cells), cells = colnames(cells$data)[cells$metadata$system == s])
  })
  expect_no_warning(
    object <- PrepareSystems(objects, normalize = FALSE, min_cells = 3L, verbose = FALSE),
    message = "layer"
  )
  expect_identical(SeuratObject::Layers(object), "data")
})

test_that("log-normalised values are kept; duplicated cell names get prefixes", {
  skip_without_engine()
  data <- lapply(c(human = "human", mouse = "mouse"), function(s) cells$data[, cells$metadata$system == s])
  joined <- join(data, NULL, normalize = FALSE)
  expect_null(joined$counts)
  given <- cells$data[rownames(joined$expression), colnames(joined$expression)]
  expect_equal(as.matrix(joined$expression), as.matrix(given), tolerance = 1e-6)
  colnames(data$mouse)[1] <- colnames(data$human)[1]
  expect_identical(colnames(join(data, NULL, normalize = FALSE)$expression)[1], "human_cell001")
})

test_that("unknown arguments are refused, metadata of matrices are kept", {
  objects <- list(human = human, mouse = mouse)
  expect_error(join(objects, normalise = FALSE), "must be empty.*normalise = FALSE",
               class = "rlib_error_dots_nonempty")
  skip_if_not_installed("SeuratObject")
  seurat <- lapply(objects, SeuratObject::CreateSeuratObject)
  expect_error(join(seurat, layers = "data"), "must be empty.*layers = \"data\"",
               class = "rlib_error_dots_nonempty")
  skip_without_engine()
  expect_named(join(objects, metadata = cells$metadata["age"])$metadata, c("age", "system"))
})

test_that("counts with fractions are refused, or taken as counts when told so", {
  skip_without_engine()
  fractions <- human
  odd <- fractions@x %% 2 == 1
  fractions@x[odd] <- fractions@x[odd] - 0.25
  objects <- list(human = fractions, mouse = mouse)
  expect_sysvi_error(join(objects), "of system 'human' does not hold counts.*fractional_counts = TRUE")
  counts <- join(objects, fractional_counts = TRUE)$counts
  expect_equal(as.matrix(counts[, colnames(human)]), as.matrix(fractions[rownames(counts), ]), tolerance = 1e-6)
  expect_sysvi_error(
    run(cbind(fractions, cells$counts[, colnames(mouse)]), "system", metadata = cells$metadata[c(
      colnames(human), colnames(mouse)
    ), ]),
    "looks like raw counts in system 'mouse'"
  )
  both <- cbind(fractions, fractions)
  colnames(both) <- paste0("cell", seq_len(ncol(both)))
  metadata <- data.frame(system = rep(c("a", "b"), each = ncol(human)), row.names = colnames(both))
  expect_sysvi_error(
    run(both, "system", metadata = metadata), "counts with fractions.*fractional_counts = TRUE of PrepareSystems"
  )
})

test_that("the names of the systems replace no other column", {
  skip_without_engine()
  metadata <- data.frame(system = rep("organoid", ncol(cells$counts)), row.names = colnames(cells$counts))
  expect_sysvi_error(
    join(list(human = human, mouse = mouse), metadata = metadata), "have a metadata column 'system' already"
  )
  expect_named(join(list(human = human, mouse = mouse), metadata = metadata, system = "s")$metadata, c("system", "s"))
})

test_that("errors say why objects cannot be joined", {
  expect_sysvi_error(PrepareSystems(list(human, mouse)), "named list of two or more")
  expect_sysvi_error(join(setNames(list(human, mouse), c("a", ""))), "named list of two or more")
  for (reference in list(NULL, c("a", "b"), NA)) {
    expect_sysvi_error(join(list(a = human, b = mouse), reference = reference), "`reference` must be one of 'a', 'b'")
  }
  expect_sysvi_error(join(list(a = human, b = mouse), min_cells = NULL), "`min_cells` must be a whole number, not NULL")
  expect_sysvi_error(PrepareSystems(list(a = human, b = mouse), reference = "c"), "`reference` must be one of 'a', 'b'")
  skip_without_engine()
  expect_sysvi_error(join(list(human = human, mouse = mouse), NULL), "share no gene name")
  expect_sysvi_error(join(list(human = cells$data, mouse = mouse)), "of system 'human' does not hold counts")
  expect_sysvi_error(join(list(human = human, mouse = mouse), normalize = FALSE), "looks like raw counts")
  expect_sysvi_error(join(list(human = human, mouse = mouse), "no such file"), "no orthologue table")
  skip_if_not_installed("SingleCellExperiment")
  expect_sysvi_error(join(list(a = human, b = make_sce(cells))), "they are 'matrix', 'SingleCellExperiment'")
})

test_that("the union keeps genes that a system lacks, for all kinds of objects, and RunSysVI reads which these are", {
  skip_without_engine()
  some <- pairs[seq_len(nrow(pairs) - 10), ]
  some$human[some$human == "gene05"] <- "gene06" # Gene05 and Gene06 are both gene06
  plain <- join(list(human = human, mouse = mouse), some, genes = "union")
  expect_setequal(names(plain$lacking_genes), c("human", "mouse"))
  of_mouse <- plain$lacking_genes$human
  expect_true(all(of_mouse %in% rownames(mouse)))
  expect_true(all(plain$lacking_genes$mouse %in% rownames(human)))
  expect_false(any(plain$counts[of_mouse, colnames(human)] > 0))
  expect_equal(as.matrix(plain$counts[of_mouse, colnames(mouse)]), as.matrix(mouse[of_mouse, ]))
  expect_equal(plain$counts["gene06", colnames(mouse)], colSums(as.matrix(mouse[c("Gene05", "Gene06"), ])))
  shared <- join(list(human = human, mouse = mouse), some, genes = "shared", duplicates = "sum")
  genes <- intersect(rownames(shared$counts), setdiff(rownames(plain$counts), unlist(plain$lacking_genes)))
  expect_equal(plain$counts[genes, ], shared$counts[genes, ])
  all_genes <- rownames(plain$expression)
  fit <- function(object, ...) run(object, "system", features = all_genes, options = small, ...)
  z <- fit(plain$expression, metadata = plain$metadata, lacking_genes = plain$lacking_genes)
  without <- fit(plain$expression, metadata = plain$metadata)
  expect_false(identical(values(z), values(without)))
  expect_equal(values(predict(attr(z, "sysVI"), plain$expression, metadata = plain$metadata)), values(z))
  skip_if_not_installed("SeuratObject")
  skip_if_not_installed("SingleCellExperiment")
  seurat <- join(lapply(list(human = human, mouse = mouse), SeuratObject::CreateSeuratObject), some, genes = "union")
  expect_identical(values(SeuratObject::Embeddings(fit(seurat), "sysvi")), values(z))
  sce <- lapply(list(human = human, mouse = mouse), function(x) {
    SingleCellExperiment::SingleCellExperiment(list(counts = x))
  })
  expect_identical(values(SingleCellExperiment::reducedDim(fit(join(sce, some, genes = "union")))), values(z))
  expect_error(fit(plain$expression, metadata = plain$metadata, lacking_genes = "gene01"), "named by system")
  expect_error(join(list(human = human, mouse = mouse), some, genes = "all"), "must be one of")
})
