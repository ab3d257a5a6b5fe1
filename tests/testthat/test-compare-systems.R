# Genes that differ between systems in one label, with a model that was trained once.
cells <- make_cells()
cells$metadata$type <- rep(c("a", "b", "c"), each = 2L, length.out = ncol(cells$data))
model <- once(function() {
  run(cells$data, "system", "batch", metadata = cells$metadata, options = small, members = 2L)
})
differences <- function(object = cells$data, label = "type", reference = model(), ..., metadata = cells$metadata,
                        verbose = FALSE) {
  CompareSystems(object, label, reference, ..., metadata = metadata, verbose = verbose)
}

test_that("a matrix gives a table with a row for each label and gene", {
  skip_without_engine()
  table <- differences()
  genes <- attr(model(), "sysVI")$genes
  expect_identical(unique(table$label), c("a", "b", "c"))
  expect_setequal(table$gene, genes)
  expect_identical(nrow(table), 3L * length(genes))
  expect_identical(unique(c(table$system_1, table$system_2)), c("human", "mouse"))
  expect_true(all(table$n_donors_1 == 2 & table$n_donors_2 == 2 & table$n_other_labels == 2))
  of_a <- table[table$label == "a", ]
  tested <- !is.na(of_a$p)
  expect_gt(sum(tested), 10)
  expect_identical(of_a$p[tested], sort(of_a$p))
  expect_equal(of_a$fdr[tested], p.adjust(of_a$p[tested], "BH"))
  marked <- !is.na(of_a$marker_p)
  expect_equal(of_a$marker_fdr[marked], p.adjust(of_a$marker_p[marked], "BH"))
  swapped <- differences(systems = c("mouse", "human"))
  match_rows <- match(paste(table$label, table$gene), paste(swapped$label, swapped$gene))
  expect_equal(swapped$effect[match_rows], -table$effect)
})

test_that("Seurat object and SingleCellExperiment give the same bits, in both processes", {
  skip_without_engine()
  table <- differences()
  expect_identical(differences(process = "separate"), table)
  skip_if_not_installed("SeuratObject")
  object <- run(make_seurat(cells), "system", "batch", options = small, members = 2L)
  expect_identical(CompareSystems(object, "type", verbose = FALSE), table)
  skip_if_not_installed("SingleCellExperiment")
  expect_identical(CompareSystems(make_sce(cells), "type", model(), verbose = FALSE), table)
})

test_that("labels and donors may be vectors, and donors need not be batches", {
  skip_without_engine()
  named <- setNames(cells$metadata$type, rownames(cells$metadata))
  expect_identical(differences(label = named), differences())
  one <- setNames(sub("2$", "1", cells$metadata$batch), rownames(cells$metadata))
  expect_warning(table <- differences(donor = one), "no p-values, since a system has fewer than 2 donors")
  expect_true(all(is.na(table$p)))
  expect_true(all(table$n_donors_1 == 1))
})

test_that("labels in one system only are named", {
  skip_without_engine()
  metadata <- cells$metadata
  metadata$type[metadata$type == "c" & metadata$system == "human"] <- "d"
  expect_warning(table <- differences(metadata = metadata), "in one system only .*: c \\(mouse\\), d \\(human\\)")
  expect_identical(unique(table$label), c("a", "b"))
})

test_that("what cannot be compared is refused in one sentence", {
  skip_without_engine()
  refused <- list(
    list(quote(differences(label = "none")), "label = \"none\" is not a column of the metadata"),
    list(quote(differences(donor = "none")), "donor = \"none\" is not a column of the metadata"),
    list(quote(differences(systems = "rat")), "systems names rat, but the model knows the systems human, mouse"),
    list(quote(differences(systems = 1)), "`systems` must be a character vector"),
    list(quote(differences(systems = "human")), "name two or more different systems"),
    list(quote(differences(min_cells = 0.5)), "`min_cells` must be a whole number"),
    list(quote(suppressWarnings(differences(min_cells = 10000L))), "Nothing can be compared: .* Lower min_cells"),
    list(quote(differences(reference = matrix(1))), "holds no sysVI model: run RunSysVI"),
    list(quote(differences(metadata = NULL)), "system = \"system\" is not a column of the metadata"),
    list(quote(differences(cells$data - 1)), "negative values, so it is scaled")
  )
  for (row in refused) expect_sysvi_error(eval(row[[1]]), row[[2]])
  without <- run(cells$data, "system", metadata = cells$metadata, options = small)
  expect_sysvi_error(differences(reference = without), "no replicates: name the donors \\(donor\\)")
  expect_error(differences(overwrite = TRUE), class = "rlib_error_dots_nonempty")
})
