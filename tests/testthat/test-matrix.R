cells <- make_cells()

test_that("every kind of matrix gives the same embedding", {
  skip_without_engine()
  z <- run(cells$data, "system", "batch", metadata = cells$metadata, options = small)
  expect_equal(dim(z), c(240L, 15L))
  expect_equal(dimnames(z), list(colnames(cells$data), paste0("sysvi_", 1:15)))
  expect_true(all(is.finite(z)))
  kinds <- list(
    dense = as.matrix(cells$data),
    triplets = as(cells$data, "TsparseMatrix"),
    by_rows = as(cells$data, "RsparseMatrix")
  )
  if (requireNamespace("HDF5Array", quietly = TRUE)) kinds$disk <- as(cells$data, "HDF5Array")
  for (kind in names(kinds)) {
    same <- run(kinds[[kind]], "system", "batch", metadata = cells$metadata, options = small)
    expect_identical(values(same), values(z), label = kind)
  }
})

test_that("the embedding does not depend on blocks, the order of metadata or the kind of columns", {
  skip_without_engine()
  z <- run(cells$data, "system", "batch", metadata = cells$metadata, options = small)
  shuffled <- cells$metadata[rev(seq_len(240)), ]
  expect_identical(values(run(cells$data, "system", "batch", metadata = shuffled, options = small)), values(z))
  named <- setNames(shuffled$system, rownames(shuffled))
  by_vector <- run(cells$data, named, setNames(shuffled$batch, rownames(shuffled)), options = small)
  expect_identical(values(by_vector), values(z))
  local_mocked_bindings(values_per_block = function(in_memory) 80 * 7)
  expect_identical(values(run(cells$data, "system", "batch", metadata = cells$metadata, options = small)), values(z))
})

test_that("seed, covariates and settings change the result; the same call gives the same bits", {
  skip_without_engine()
  call <- function(...) values(run(cells$data, "system", metadata = cells$metadata, options = small, ...))
  z <- call()
  expect_identical(call(), z)
  expect_false(identical(call(seed = 1L), z))
  expect_false(identical(call(batch = "batch"), z))
  expect_false(identical(call(continuous = "age"), z))
  expect_identical(call(covariates = "batch"), call(batch = "batch"))
  expect_identical(call(covariates = cells$metadata["batch"]), call(batch = "batch"))
  expect_equal(ncol(call(n_latent = 3L)), 3L)
})

test_that("a separate process gives the same bits, and leaves no files behind", {
  skip_without_engine()
  call <- function(process) {
    run(
      cells$data, "system", "batch",
      metadata = cells$metadata, continuous = "age", process = process, options = small
    )
  }
  before <- list.files(tempdir(), "^sysvi-")
  separate <- call("separate")
  expect_identical(values(separate), values(call("session")))
  expect_identical(list.files(tempdir(), "^sysvi-"), before)
  expect_identical(attr(separate, "sysVI")$genes, attr(call("session"), "sysVI")$genes)
})

test_that("an ensemble has the support of each cell, in both processes; a single model has none", {
  skip_without_engine()
  call <- function(...) run_ensemble(cells$data, "system", "batch", metadata = cells$metadata, options = small, ...)
  z <- call()
  expect_identical(attr(z, "sysVI")$members, formals(RunSysVI.default)$members)
  expect_identical(dim(z), c(240L, 15L))
  by_system <- attr(z, "support_by_system")
  expect_named(by_system, c("human", "mouse"))
  expect_identical(rownames(by_system), colnames(cells$data))
  expect_identical(unname(is.na(by_system)), cells$metadata$system == cbind(rep("human", 240), "mouse"))
  expect_true(all(by_system >= 0 & by_system <= 1, na.rm = TRUE))
  highest <- apply(by_system, 1, max, na.rm = TRUE)
  expect_equal(attr(z, "support"), highest, tolerance = 1e-6) # single precision
  expect_identical(call(process = "separate"), z)
  expect_named(attributes(call(members = 1)), c("dim", "dimnames", "sysVI"), ignore.order = TRUE)
})

test_that("features are used in the given order, with a warning about absent ones", {
  skip_without_engine()
  features <- c("gene30", "gene02", "gene77", "gene11")
  z <- run(cells$data, "system", metadata = cells$metadata, features = features, options = small)
  expect_identical(attr(z, "sysVI")$genes, features)
  expect_warning(
    z2 <- run(cells$data, "system", metadata = cells$metadata, features = c(features, "none"), options = small),
    "1 of 5 features are not in the matrix.*'none'"
  )
  expect_identical(values(z2), values(z))
})

test_that("the engine receives the expression unchanged", {
  skip_without_engine()
  bridge <- import_bridge()
  seen <- bridge$Expression()
  described <- describe_cells(cells$data, metadata = cells$metadata)
  stream_blocks(
    described, c("gene05", "gene01"),
    function(layer, block) {
      bridge$Expression$add(seen, layer, as_1d_array(block@x), as_1d_array(block@i), as_1d_array(block@p))
    },
    function(...) NULL
  )
  x <- bridge$Expression$take_all(seen, 2L) # a CSR matrix of SciPy becomes a dgRMatrix
  expect_equal(unname(as.matrix(x)), unname(t(as.matrix(cells$data[c("gene05", "gene01"), ]))), tolerance = 1e-7)
})

test_that("progress is shown unless verbose = FALSE", {
  skip_without_engine()
  expect_silent(run(cells$data, "system", metadata = cells$metadata, options = small))
  for (process in c("session", "separate")) {
    expect_message(
      expect_message(
        run(cells$data, "system", metadata = cells$metadata, options = small, verbose = TRUE, process = process,
            features = rownames(cells$data)),
        "Training on 240 cells"
      ),
      "Trained 1 epoch"
    )
  }
  messages <- testthat::capture_messages(
    run(cells$data, "system", metadata = cells$metadata, options = small, verbose = TRUE, members = 2L)
  )
  for (text in c("Training 2 models", "2 of 2 models", "Counterparts on which the members agree")) {
    expect_match(messages, text, all = FALSE)
  }
})
