cells <- make_cells()
expect_said <- function(code, ...) expect_error(code, ..., class = "sysvi_error")
call <- function(object = cells$data, system = "system", ..., metadata = cells$metadata) {
  RunSysVI(object, system, ..., metadata = metadata)
}

test_that("columns that cannot be used are named", {
  expect_said(call(system = "species"), "system = \"species\" is not a column.*'system', 'batch', 'age'")
  expect_said(call(batch = "donor"), "batch = \"donor\" is not a column")
  expect_said(call(covariates = c("batch", "sex")), "covariates = \"sex\" is not a column")
  expect_said(call(system = cells$metadata$system), "vector named by cell: setNames")
  expect_said(call(system = setNames(rep("a", 3), colnames(cells$data)[1:3])), "system lacks 237 cells")
  expect_said(call(batch = "system"), "'system' is named twice")
  expect_said(call(continuous = "batch"), "'batch' \\(continuous\\) is not numeric")
  gaps <- cells$metadata
  gaps$batch[c(3, 9)] <- NA
  expect_said(call(batch = "batch", metadata = gaps), "'batch' \\(batch\\) has 2 missing values")
  gaps$batch[c(3, 9)] <- ""
  expect_said(call(batch = "batch", metadata = gaps), "'batch' \\(batch\\) has 2 missing values")
  one <- transform(cells$metadata, system = "human")
  expect_said(call(metadata = one), "'system' \\(system\\) holds one system only \\(human\\)")
  expect_said(call(metadata = cells$metadata[1:200, ]), "metadata lacks 40 of the 240 cells.*'cell201'")
})

test_that("an empty value leaves an error its text", {
  expect_said(abort("no layer '%s' of %d", NULL, integer()), "no layer 'NA' of NA")
  expect_said(abort("100% wrong"), "100% wrong")
})

test_that("matrices that cannot be used are told apart", {
  unnamed <- cells$data
  rownames(unnamed) <- NULL
  expect_said(call(unnamed), "The matrix has no gene names")
  twice <- cells$data
  rownames(twice)[2] <- "gene01"
  expect_said(call(twice), "gene name 'gene01' more than once.*make.unique")
  twice <- cells$data
  colnames(twice)[2] <- "cell001"
  expect_said(call(twice), "cell name 'cell001' more than once")
  expect_said(call(as.data.frame(as.matrix(cells$data))), "object is a data.frame")
  expect_said(call(matrix("a", 2, 2)), "object is a character matrix")
  expect_said(call(features = "no such gene"), "None of the 1 features is in the matrix")
  expect_said(call(features = 1:3), "features must be a character vector")
})

test_that("counts, scaled values and missing values are recognised before training", {
  skip_without_engine()
  expect_said(call(cells$counts), "The matrix looks like raw counts: give log-normalised values")
  half <- cells$data
  mouse <- cells$metadata$system == "mouse"
  half[, mouse] <- cells$counts[, mouse]
  expect_said(call(half), "looks like raw counts in system 'mouse'")
  expect_said(call(t(scale(t(as.matrix(cells$data))))), "negative values, so it is scaled or corrected")
  expect_said(call(expm1(cells$data)), "too large for log-normalised expression")
  holes <- cells$data
  holes@x[holes@p[8]  + 1] <- NaN
  expect_said(call(holes), "not finite \\(cell 'cell008'\\)")
  local_mocked_bindings(block_values = function(in_memory) 80 * 7) # the same over blocks
  expect_said(call(holes), "not finite \\(cell 'cell008'\\)")
  expect_said(call(half), "looks like raw counts in system 'mouse'")
})

test_that("a system without any value does not look like counts", {
  skip_without_engine()
  zero <- as.matrix(cells$data)
  zero[, cells$metadata$system == "mouse"] <- 0
  z <- run(zero, "system", metadata = cells$metadata, features = rownames(zero), options = small)
  model <- attr(z, "sysVI")
  for (one in list(zero[, 2, drop = FALSE], Matrix::drop0(zero)[, 2, drop = FALSE])) {
    expect_equal(values(predict(model, one, metadata = cells$metadata, verbose = FALSE)), values(z[2, , drop = FALSE]),
                 tolerance = 1e-5)
  }
  stored <- cells$data
  stored@x[] <- 0
  check <- check_log_normalised(cells_of(stored), factor(cells$metadata$system))
  check$block(stored, list(cells = colnames(stored)), 1:240)
  expect_no_error(check$done())
  zero[, cells$metadata$system == "human"] <- as.matrix(cells$counts)[, cells$metadata$system == "human"]
  expect_said(call(zero), "looks like raw counts in system 'human'")
})

test_that("settings are checked, here or by the engine", {
  expect_said(call(foo = 1), "no argument 'foo'")
  expect_said(call(process = "elsewhere"), "process must be one of 'session', 'separate'")
  expect_said(call(verbose = NA), "verbose must be TRUE or FALSE")
  for (name in c("n_top_genes", "cycle_weight", "n_latent", "seed")) {
    expect_said(do.call(call, setNames(list(NULL), name)), paste(name, "is NULL: give a value"))
  }
  expect_said(call(max_epochs = NA), "max_epochs is NA: give a value or NULL")
  expect_said(call(options = list()), "options must come from sysvi_options")
  expect_said(sysvi_options(prior = "flat"), "prior must be one of 'vamp', 'gmm', 'standard_normal'")
  expect_said(sysvi_options(trainable_priors = "yes"), "trainable_priors must be TRUE or FALSE")
  skip_without_engine()
  for (process in c("session", "separate")) {
    expect_said(suppressWarnings(call(process = process, n_latent = 0L, verbose = FALSE)), "n_latent is 0")
  }
  expect_said(suppressWarnings(call(max_epochs = -1, verbose = FALSE)), "max_epochs is -1")
  expect_said(suppressWarnings(call(device = "abacus", verbose = FALSE)), "device 'abacus' is not known")
})
