# Expression that differs between groups of cells, with a model that was trained once.
cells <- make_cells()
cells$metadata$type <- rep(c("a", "b", "c"), each = 2L, length.out = ncol(cells$data))
model <- once(function() {
  run(cells$data, "system", "batch", metadata = cells$metadata, options = small, members = 2L)
})
compared <- function(object = cells$data, groups = "type", reference = model(), ..., n_samples = 40L,
                     metadata = cells$metadata, verbose = FALSE) {
  DifferentialExpressionSysVI(
    object, groups, reference, ..., n_samples = n_samples, metadata = metadata, verbose = verbose
  )
}

test_that("a matrix gives a table with a row for each gene and comparison", {
  skip_without_engine()
  table <- compared()
  genes <- attr(model(), "sysVI")$genes
  expect_identical(unique(table$comparison), c("a vs Rest", "b vs Rest", "c vs Rest"))
  expect_identical(nrow(table), 3L * length(genes))
  of_a <- table[table$group1 == "a", ]
  expect_setequal(of_a$gene, genes)
  expect_false(is.unsorted(-of_a$proba_de))
  expect_equal(of_a$proba_de + of_a$proba_not_de, rep(1, nrow(of_a)))
  expected <- cumsum(of_a$proba_not_de) / seq_len(nrow(of_a))
  expect_identical(of_a$is_de_fdr_0.05, expected <= 0.05)
  means <- Matrix::rowMeans(cells$data[, cells$metadata$type == "a"])
  expect_equal(of_a$raw_mean1, unname(means[of_a$gene]), tolerance = 1e-5)
  ordered <- compared(mode = "vanilla", group1 = "a", group2 = "b", batch_correction = TRUE)
  expect_true(all(ordered$comparison == "a vs b"))
  expect_true("proba_m1" %in% names(ordered))
})

test_that("Seurat object and SingleCellExperiment give the same bits, in both processes", {
  skip_without_engine()
  table <- compared(group1 = "a")
  expect_identical(compared(group1 = "a", process = "separate"), table)
  named <- setNames(cells$metadata$type, rownames(cells$metadata))
  expect_identical(compared(groups = named, group1 = "a"), table)
  expect_false(identical(compared(group1 = "a", seed = 5), table))
  skip_if_not_installed("SeuratObject")
  object <- run(make_seurat(cells), "system", "batch", options = small, members = 2L)
  found <- DifferentialExpressionSysVI(object, "type", group1 = "a", n_samples = 40, verbose = FALSE)
  expect_identical(found, table)
  skip_if_not_installed("SingleCellExperiment")
  found <- DifferentialExpressionSysVI(make_sce(cells), "type", model(), "a", n_samples = 40, verbose = FALSE)
  expect_identical(found, table)
})

test_that("groups of one batch are named", {
  skip_without_engine()
  first <- cells$metadata$batch[1]
  expect_warning(compared(groups = "batch", group1 = first), "has cells of a single batch")
})

test_that("what cannot be compared is refused in one sentence", {
  skip_without_engine()
  refused <- list(
    list(quote(compared(groups = "none")), "groups = \"none\" is not a column of the metadata"),
    list(quote(compared(group1 = "x")), "'type' has no group 'x': choose of a, b, c"),
    list(quote(compared(group1 = 1)), "`group1` must be a character vector"),
    list(quote(compared(group2 = 1)), "`group2` must be"),
    list(quote(compared(delta = -1)), "delta is -1"),
    list(quote(compared(fdr_target = 5)), "fdr_target is 5"),
    list(quote(compared(batch_correction = "yes")), "`batch_correction` must be"),
    list(quote(compared(n_samples = 0.5)), "`n_samples` must be a whole number"),
    list(quote(compared(reference = matrix(1))), "holds no sysVI model: run RunSysVI"),
    list(quote(compared(metadata = NULL)), "system = \"system\" is not a column of the metadata"),
    list(quote(compared(cells$data - 1)), "negative values, so it is scaled")
  )
  for (row in refused) expect_sysvi_error(eval(row[[1]]), row[[2]])
  expect_error(compared(overwrite = TRUE), class = "rlib_error_dots_nonempty")
})
