cells <- make_cells()
call <- function(object = cells$data, system = "system", ..., metadata = cells$metadata) {
  RunSysVI(object, system, ..., metadata = metadata)
}

test_that("errors name columns that cannot be used", {
  expect_sysvi_error(call(system = "species"), "system = \"species\" is not a column.*'system', 'batch', 'age'")
  expect_sysvi_error(call(batch = "donor"), "batch = \"donor\" is not a column")
  expect_sysvi_error(call(covariates = c("batch", "sex")), "covariates = \"sex\" is not a column")
  expect_sysvi_error(
    call(system = cells$metadata$system), "vector named by cell: `setNames\\(system, colnames\\(object\\)\\)`"
  )
  expect_sysvi_error(call(system = setNames(rep("a", 3), colnames(cells$data)[1:3])), "`system` lacks 237 cells")
  expect_sysvi_error(call(batch = "system"), "'system' is named more than once")
  expect_sysvi_error(call(continuous = "batch"), "'batch' \\(continuous\\) is not numeric")
  gaps <- cells$metadata
  gaps$batch[c(3, 9)] <- NA
  expect_sysvi_error(call(batch = "batch", metadata = gaps), "'batch' \\(batch\\) has 2 missing values")
  gaps$batch[c(3, 9)] <- ""
  expect_sysvi_error(call(batch = "batch", metadata = gaps), "'batch' \\(batch\\) has 2 missing values")
  one <- transform(cells$metadata, system = "human")
  expect_sysvi_error(call(metadata = one), "'system' \\(system\\) holds one system only \\(human\\)")
  expect_sysvi_error(call(metadata = cells$metadata[1:200, ]), "`metadata` lacks 40 of the 240 cells.*'cell201'")
})

test_that("values in messages are printed as they are, whatever they contain", {
  for (name in c("{name}", "a {b", "}", "{.val x}", "100% {?s}", "<b>", "")) {
    expect_sysvi_error(sysvi_abort("There is no layer '{name}'."), sprintf("no layer '%s'.", name), fixed = TRUE)
    expect_warning(sysvi_warn("There is no layer '{name}'."), sprintf("no layer '%s'.", name), fixed = TRUE)
  }
  expect_sysvi_error(sysvi_abort("There is no layer '{NULL}'."), "There is no layer ''.", fixed = TRUE)
  braces <- setNames(cells$metadata, c("{system}", "{.arg batch}", "age"))
  expect_sysvi_error(call(metadata = braces), "choose one of '{system}', '{.arg batch}', 'age'", fixed = TRUE)
  expect_sysvi_error(
    call(system = "{system}", batch = "{system}", metadata = braces), "'{system}' is named more than once", fixed = TRUE
  )
  expect_sysvi_error(call(system = "{cells}"), "system = \"{cells}\" is not a column", fixed = TRUE)
})

test_that("errors say why a matrix cannot be used", {
  unnamed <- cells$data
  rownames(unnamed) <- NULL
  expect_sysvi_error(call(unnamed), "The matrix has no gene names")
  twice <- cells$data
  rownames(twice)[2] <- "gene01"
  expect_sysvi_error(call(twice), "gene name 'gene01' more than once.*make.unique")
  twice <- cells$data
  colnames(twice)[2] <- "cell001"
  expect_sysvi_error(call(twice), "cell name 'cell001' more than once")
  expect_sysvi_error(call(as.data.frame(as.matrix(cells$data))), "`object` is a data.frame")
  expect_sysvi_error(call(matrix("a", 2, 2)), "`object` is a character matrix")
  expect_sysvi_error(call(features = "no such gene"), "None of the 1 features is in the matrix")
  expect_sysvi_error(call(features = 1:3), "`features` must be a character vector")
})

test_that("counts, scaled values and missing values are recognised before training", {
  skip_without_engine()
  expect_sysvi_error(call(cells$counts), "The matrix looks like raw counts: give log-normalised values")
  half <- cells$data
  mouse <- cells$metadata$system == "mouse"
  half[, mouse] <- cells$counts[, mouse]
  expect_sysvi_error(call(half), "looks like raw counts in system 'mouse'")
  expect_sysvi_error(call(t(scale(t(as.matrix(cells$data))))), "negative values, so it is scaled or corrected")
  expect_sysvi_error(call(expm1(cells$data)), "too large for log-normalised expression")
  holes <- cells$data
  holes@x[holes@p[8]  + 1] <- NaN
  expect_sysvi_error(call(holes), "not finite \\(cell 'cell008'\\)")
  local_mocked_bindings(values_per_block = function(in_memory) 80 * 7) # the same with several blocks
  expect_sysvi_error(call(holes), "not finite \\(cell 'cell008'\\)")
  expect_sysvi_error(call(half), "looks like raw counts in system 'mouse'")
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
  check <- check_log_normalised(describe_cells(stored), factor(cells$metadata$system))
  check$check_block(stored, list(cells = colnames(stored)), 1:240)
  expect_no_error(check$check_all())
  zero[, cells$metadata$system == "human"] <- as.matrix(cells$counts)[, cells$metadata$system == "human"]
  expect_sysvi_error(call(zero), "looks like raw counts in system 'human'")
})

test_that("settings are checked, in R or by the engine", {
  expect_sysvi_error(call(foo = 1), "Unknown argument: see `\\?sysvi_options`.*foo = 1")
  expect_error(call(process = "elsewhere"), "`process` must be one of \"session\" or \"separate\", not \"elsewhere\"")
  expect_sysvi_error(call(verbose = NA), "`verbose` must be TRUE or FALSE, not NA")
  for (name in c("n_top_genes", "n_latent", "members", "seed")) {
    expect_sysvi_error(do.call(call, setNames(list(NULL), name)), sprintf("`%s` must be a .*number.*, not NULL", name))
  }
  expect_sysvi_error(call(n_latent = 2.5), "`n_latent` must be a whole number, not 2.5")
  expect_sysvi_error(
    call(cycle_weight = c(1, 2)), "`cycle_weight` must be a number or c\\(value, start, end\\) or NULL, not a double"
  )
  expect_sysvi_error(call(max_epochs = NA), "`max_epochs` must be a whole number or NULL, not NA")
  expect_sysvi_error(call(members = 2.5), "`members` must be a whole number, not 2.5")
  expect_sysvi_error(call(preset = NA), "`preset` must be a string or NULL, not NA")
  expect_sysvi_error(call(options = list()), "`options` must be a value of `sysvi_options")
  expect_error(sysvi_options(prior = "flat"), "`prior` must be one of \"vamp\", \"gmm\", or \"standard_normal\"")
  expect_sysvi_error(sysvi_options(trainable_priors = "yes"), "`trainable_priors` must be TRUE or FALSE, not \"yes\"")
  skip_without_engine()
  for (process in c("session", "separate")) {
    expect_sysvi_error(suppressWarnings(call(process = process, n_latent = 0L, verbose = FALSE)), "n_latent is 0")
  }
  expect_sysvi_error(suppressWarnings(call(members = 0, verbose = FALSE)), "members is 0")
  expect_sysvi_error(suppressWarnings(call(preset = "article", verbose = FALSE)), "preset is 'article'.* paper")
  expect_sysvi_error(suppressWarnings(call(max_epochs = -1, verbose = FALSE)), "max_epochs is -1")
  expect_sysvi_error(suppressWarnings(call(device = "abacus", verbose = FALSE)), "device 'abacus' is not known")
})
