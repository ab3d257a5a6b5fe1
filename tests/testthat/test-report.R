# Reports of an ensemble that was trained once. Each page must hold what the object holds.
cells <- make_cells()
cells$metadata$type <- rep(c("alpha", "beta", "<script>alert(1)</script>"), length.out = 240)
cells$metadata$type[1:5] <- NA
embedding <- once(function() {
  run(cells$data, "system", "batch", metadata = cells$metadata, options = small, members = 2L)
})

skip_without_report <- function() {
  skip_without_engine()
  start_python()
  for (module in c("jinja2", "plotly")) {
    skip_if_not(reticulate::py_module_available(module), sprintf("Python with %s", module))
  }
}

report <- function(object, ..., label = "type", verbose = FALSE) {
  file <- withr::local_tempfile(fileext = ".html", .local_envir = parent.frame())
  returned <- withVisible(quietly(ReportSysVI(object, file, label, ..., device = "cpu", verbose = verbose)))
  expect_false(returned$visible)
  expect_identical(returned$value, file)
  paste(readLines(file, encoding = "UTF-8", warn = FALSE), collapse = "\n")
}

# What the page draws.
page_data <- function(page) {
  json <- regmatches(page, regexec('<script type="application/json" id="data">(.*?)</script>', page, perl = TRUE))
  jsonlite::fromJSON(json[[1L]][2L], simplifyVector = FALSE)
}

test_that("an embedding, a Seurat object and a SingleCellExperiment give the same page", {
  skip_without_report()
  plain <- report(embedding(), metadata = cells$metadata, expression = cells$data)
  expect_match(plain, "Integration of human and mouse", fixed = TRUE)
  expect_match(plain, "5 of 240 cells have no label", fixed = TRUE)
  columns <- vapply(page_data(plain)$columns, `[[`, "", "name")
  expect_setequal(columns, c("system", "batch", "type", "sysvi_support", "age"))
  expect_no_match(plain, "<script>alert(1)", fixed = TRUE)
  expect_match(plain, "&lt;script&gt;alert(1)&lt;/script&gt;", fixed = TRUE)
  expect_match(plain, "RunSysVI(", fixed = TRUE)
  expect_no_match(plain, "sysvi integrate cells.h5ad", fixed = TRUE)

  skip_if_not_installed("SeuratObject")
  object <- add_reduction(make_seurat(cells), embedding(), "sysvi", "RNA", "sysvi_")
  expect_identical(page_data(report(object))$umaps, page_data(plain)$umaps)

  skip_if_not_installed("SingleCellExperiment")
  object <- add_reduced_dim(make_sce(cells), embedding(), "sysVI")
  expect_identical(page_data(report(object))$umaps, page_data(plain)$umaps)
  expect_identical(page_data(report(object, process = "separate"))$umaps, page_data(plain)$umaps)
})

test_that("the code of the page can be parsed and names the settings", {
  skip_without_report()
  page <- report(embedding(), metadata = cells$metadata, expression = cells$data, colors = character(), label = NULL)
  code <- regmatches(page, regexec("(?s)<pre[^>]*><code>(.*?)</code>", page, perl = TRUE))[[1L]][2L]
  for (entity in list(c("&#34;", "\""), c("&lt;", "<"), c("&gt;", ">"), c("&amp;", "&"))) {
    code <- gsub(entity[1L], entity[2L], code, fixed = TRUE)
  }
  call <- parse(text = code)[[1L]][[3L]]
  expect_identical(as.character(call[[1L]]), "RunSysVI")
  expect_identical(call$system, "system")
  expect_equal(call$members, 2)
  expect_equal(eval(call$options)$n_hidden, 16)
  expect_no_match(page, "Mixing within each cell type", fixed = TRUE)
})

test_that("the PCA of the object is what the page calls before, and colours are those that were chosen", {
  skip_without_report()
  skip_if_not_installed("SingleCellExperiment")
  object <- add_reduced_dim(make_sce(cells), embedding(), "sysVI")
  pca <- withr::with_seed(1, matrix(rnorm(240 * 5), 240, dimnames = list(colnames(object), NULL)))
  SingleCellExperiment::reducedDim(object, "PCA") <- pca
  data <- page_data(report(object, colors = "age", assay = NULL))
  expect_length(data$umaps, 2)
  columns <- vapply(data$columns, `[[`, "", "name")
  expect_identical(columns, c("system", "batch", "type", "sysvi_support", "age"))
  data <- page_data(report(object, colors = character(), assay = NULL, label = NULL))
  expect_length(data$columns, 3)
})

test_that("errors are one sentence", {
  skip_without_report()
  file <- withr::local_tempfile(fileext = ".html")
  expect_sysvi_error(ReportSysVI(matrix(1, 2, 2), file), "holds no sysVI model: run RunSysVI\\(\\) first")
  again <- function(...) ReportSysVI(embedding(), file, ..., metadata = cells$metadata, verbose = FALSE)
  expect_sysvi_error(again(colors = "hue"), "`colors` names 'hue', which is not a column")
  expect_sysvi_error(again(label = "kind"), "is not a column of the metadata")
  writeLines("", file)
  expect_sysvi_error(again(), "exists already")
  expect_sysvi_error(again(1), "must be")
})
