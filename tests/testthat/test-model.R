cells <- make_cells()
fit <- function(...) run(cells$data, "system", "batch", metadata = cells$metadata, options = small, ...)

test_that("models are saved and loaded without loss, and never in part", {
  skip_without_engine()
  z <- fit(continuous = "age", seed = 3L, max_epochs = 2L)
  folder <- withr::local_tempdir()
  file <- SaveSysVI(z, file.path(folder, "deep", "model"))
  expect_identical(basename(file), "model.safetensors")
  expect_identical(list.files(dirname(file), all.files = TRUE, no.. = TRUE), "model.safetensors")
  model <- LoadSysVI(dirname(file))
  expect_identical(model, attr(z, "sysVI"))
  expect_identical(LoadSysVI(file), model)
  expect_sysvi_error(SaveSysVI(z, dirname(file)), "exists already: set overwrite = TRUE")
  SaveSysVI(model, dirname(file), overwrite = TRUE)
  expect_identical(model$seed, 3L)
  expect_identical(model$status, "finished")
  expect_identical(model$history$epoch, 1:2)
  expect_identical(model$versions$sysvi, as.character(packageVersion("sysVI")))
  expect_named(model$continuous, "age")
  expect_equal(model$continuous$age[1], mean(cells$metadata$age))
  model$seed <- 3e9
  expect_output(print(model), "seed 3000000000$")
  model$seed <- 3L
  expect_output(
    print(model),
    "SysVIModel, a single model: .* systems human, mouse \\('system'\\); covariates batch, age; .* 2 epochs, seed 3"
  )
})

test_that("an ensemble is saved, loaded and embeds cells as a single model does", {
  skip_without_engine()
  z <- fit(members = 2L, seed = 3L, max_epochs = 2L)
  model <- attr(z, "sysVI")
  expect_identical(model$members, 2L)
  expect_identical(model$seed, 3L)
  expect_identical(model$history$epoch, 1:2)
  expect_output(print(model), "SysVIModel, an ensemble of 2 models: .* 2 epochs, seed 3$")
  folder <- withr::local_tempdir()
  SaveSysVI(z, folder)
  expect_identical(LoadSysVI(folder), model)
  for (process in c("session", "separate")) {
    again <- predict(model, cells$data, metadata = cells$metadata, process = process, verbose = FALSE)
    expect_identical(values(again), values(z))
  }
  import_bridge()
  loaded <- reticulate::import("sysvi")$load(folder)
  expect_match(as.character(reticulate::py_str(loaded)), "Ensemble of 2 members", fixed = TRUE)
  loaded$save(file.path(folder, "python"))
  expect_identical(LoadSysVI(file.path(folder, "python"))$members, 2L)
})

test_that("a loaded model gives the embedding of its training, in both processes", {
  skip_without_engine()
  z <- fit(continuous = "age")
  model <- attr(z, "sysVI")
  for (process in c("session", "separate")) {
    again <- predict(model, cells$data, metadata = cells$metadata, process = process, verbose = FALSE)
    expect_identical(values(again), values(z))
    expect_identical(dimnames(again), dimnames(z))
  }
  some <- rev(colnames(cells$data))[1:30]
  part <- predict(model, cells$data[80:1, some], metadata = cells$metadata, verbose = FALSE)
  expect_equal(values(part), values(z[some, ]), tolerance = 1e-5)
  renamed <- cells$metadata["age"]
  columns <- list(
    system = setNames(cells$metadata$system, rownames(renamed)),
    batch = setNames(cells$metadata$batch, rownames(renamed))
  )
  again <- predict(model, cells$data, metadata = renamed, columns = columns, verbose = FALSE)
  expect_identical(values(again), values(z))
})

test_that("cells with unknown systems or too few genes are refused", {
  skip_without_engine()
  model <- attr(fit(), "sysVI")
  expect_sysvi_error(predict(model, cells$data[1:50, ], metadata = cells$metadata), "lacks .* of the model's .* genes")
  expect_sysvi_error(
    predict(model, cells$data, metadata = cells$metadata["age"]), "system = \"system\" is not a column"
  )
  frogs <- transform(cells$metadata, system = ifelse(system == "human", "frog", system))
  expect_sysvi_error(predict(model, cells$data, metadata = frogs), "does not know \\(frog\\)")
})

test_that("predict() refuses arguments that are not for this kind of object", {
  skip_without_engine()
  model <- attr(fit(), "sysVI")
  expect_error(
    predict(model, cells$data, metdata = 1), "must be empty.*metdata = 1", class = "rlib_error_dots_nonempty"
  )
  expect_identical(
    predict(model, cells$data, cells$metadata, verbose = FALSE),
    predict(model, cells$data, metadata = cells$metadata, verbose = FALSE)
  )
  skip_if_not_installed("SeuratObject")
  expect_error(
    predict(model, make_seurat(cells), asay = "RNA"),
    "must be empty.*asay = \"RNA\"", class = "rlib_error_dots_nonempty"
  )
  skip_if_not_installed("SingleCellExperiment")
  expect_error(
    predict(model, make_sce(cells), layer = "data"),
    "must be empty.*layer = \"data\"", class = "rlib_error_dots_nonempty"
  )
})

test_that("a model trained in Python is loaded, and one trained in R is loaded in Python", {
  skip_without_engine()
  z <- fit()
  folder <- withr::local_tempdir()
  SaveSysVI(z, folder)
  import_bridge()
  loaded <- reticulate::import("sysvi")$load(folder)
  expect_match(as.character(reticulate::py_str(loaded)), "systems (human, mouse)", fixed = TRUE)
  loaded$save(file.path(folder, "python"))
  expect_identical(LoadSysVI(file.path(folder, "python"))$genes, attr(z, "sysVI")$genes)
})

test_that("errors say that a file is not a model", {
  expect_sysvi_error(LoadSysVI(tempfile()), "There is no saved model")
  file <- withr::local_tempfile()
  writeLines("something else", file)
  expect_sysvi_error(LoadSysVI(file), "corrupted or another kind of file")
  expect_sysvi_error(SaveSysVI(matrix(1), tempfile()), "holds no sysVI model: run RunSysVI")
})

test_that("the model must be named if an object holds several", {
  skip_without_engine()
  skip_if_not_installed("SeuratObject")
  object <- run(make_seurat(cells), "system", options = small)
  object <- run(object, "system", reduction.name = "second", reduction.key = "second_", options = small, seed = 1L)
  expect_sysvi_error(SaveSysVI(object, tempfile()), "holds 2 models.*'sysvi', 'second'")
  folder <- withr::local_tempdir()
  SaveSysVI(object, folder, name = "second")
  expect_identical(LoadSysVI(folder)$seed, 1L)
})

test_that("an interrupted training causes a warning, or an error before its first epoch", {
  model <- list(
    status = "interrupted", members = 1L, history = data.frame(epoch = 1:3), train_settings = list(max_epochs = 9)
  )
  expect_warning(warn_if_interrupted(model), "interrupted; the embedding is that of a single model after 3 of 9 epochs")
  model$members <- 2L
  expect_warning(warn_if_interrupted(model), "that of an ensemble of 2 models after 3 of 9 epochs")
  model$history <- model$history[0, , drop = FALSE]
  expect_sysvi_error(warn_if_interrupted(model), "nothing was changed")
})

test_that("an interrupted ensemble consists of the members that had ended", {
  skip_without_engine()
  listen_and_interrupt <- function(verbose) {
    interrupted <- FALSE
    handle_event <- function(line) {
      if (!interrupted && jsonlite::fromJSON(line)$stage == "model") {
        interrupted <<- TRUE
        signalCondition(structure(class = c("interrupt", "condition"), list()))
      }
    }
    list(handle_event = handle_event, close = function() NULL, warnings = function() character())
  }
  local_mocked_bindings(new_event_listener = listen_and_interrupt)
  import_bridge()
  local_two_threads()
  expect_warning(
    z <- fit(members = 40L, max_epochs = 20L), # others go on until the interrupt is heard: so there are many
    "interrupted; the embedding is that of an? (single model|ensemble of [0-9]+ models) after 20 of 20 epochs"
  )
  model <- attr(z, "sysVI")
  expect_identical(model$status, "interrupted")
  expect_lt(model$members, 40L)
  expect_identical(is.null(attr(z, "support")), model$members == 1L)
})
