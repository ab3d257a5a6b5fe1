test_that("print shows settings, reasons and warnings; plot shows settings and runs", {
  settings <- data.frame(
    cycle_weight = c(5, 2), kl_weight = 1, prior = "vamp", "shared mixing" = c(0.6, 0.41234), NMI = c(0.8, 0.85),
    Moran = NA_real_,
    biology = c(0.4, 0.9), batch = c(1, 0.1), overall = c(0.64, 0.58), runs = c(2, 1), chosen = c(TRUE, FALSE),
    check.names = FALSE
  )
  runs <- data.frame(
    cycle_weight = c(5, 5, 2, 2), kl_weight = 1, prior = "vamp", seed = c(0, 1, 0, 1),
    status = c("finished", "finished", "finished", "failed"), "shared mixing" = c(0.5, 0.7, 0.41234, NA),
    biology = c(0.3, 0.5, 0.9, NA), overall = c(0.5, 0.78, 0.58, NA), chosen = c(TRUE, TRUE, FALSE, FALSE),
    check.names = FALSE
  )
  found <- structure(
    list(
      runs = runs, settings = settings, cycle_weight = 5, kl_weight = 1, prior = "vamp", seed = 1L,
      mixing = "shared mixing",
      why = "Cycle weight 5 has the highest score, 0.64 (the mean of 2 runs); next comes cycle weight 2 with 0.58.",
      warnings = "9 of 15 latent dimensions have collapsed."
    ),
    class = "SysVITuning"
  )
  expect_snapshot(found)
  single <- utils::modifyList(found, list(settings = transform(settings, runs = 1, check.names = FALSE), seed = 3e9))
  expect_output(print(single), "that of seed 3000000000\n")
  expect_identical(as.data.frame(found), runs)
  skip_if_not_installed("ggplot2")
  drawn <- plot(found)
  expect_s3_class(drawn, "ggplot")
  expect_silent(built <- ggplot2::ggplot_build(drawn)$data)
  expect_identical(nrow(built[[1]]), 3L) # runs with a score
  expect_equal(c(built[[4]]$x, built[[4]]$y), c(0.6, 0.4)) # the chosen setting
  expect_identical(trimws(built[[5]]$label), c("2", "5"))
  found$settings <- rbind(settings, transform(settings, kl_weight = 2, chosen = FALSE, check.names = FALSE))
  expect_output(print(found), "cycle weight KL weight runs")
  expect_identical(levels(plot(found)$data$line), paste("prior vamp, KL weight", 1:2))
  found$settings$prior <- rep(c("vamp", "standard_normal"), each = 2)
  expect_output(print(found), "cycle weight 5, KL weight 1, prior vamp; .*KL weight           prior runs")
})

# Simulated cells of three types that both systems have; seven have no label.
cells <- local({
  skip_without_engine()
  simulated <- SimulateSystems(
    n_cells = 300, n_genes = 100, n_types = 3, n_private = 0, n_samples = 2, n_markers = 10, n_programme_genes = 10,
    seed = 1
  )
  rownames(simulated$counts) <- sub("_", "-", rownames(simulated$counts)) # as Seurat wants them
  data <- simulated$counts
  data@x <- log1p(data@x / rep(Matrix::colSums(data), diff(data@p)) * 1e4)
  simulated$metadata$cell_type[c(3, 30:35)] <- NA
  list(counts = simulated$counts, data = data, metadata = simulated$metadata)
})
tiny <- sysvi_options(n_hidden = 16L, n_prior_components = 2L, min_cells = 5L)
tuned <- function(object, label = NULL, ..., cycle_weights = c(0, 5), seeds = 2, options = tiny, max_epochs = 2,
                  verbose = FALSE) {
  quietly(TuneSysVI(
    object, "system", "batch", label, ...,
    cycle_weights = cycle_weights, seeds = seeds, max_epochs = max_epochs, n_latent = 4, min_cells = 20,
    options = options, verbose = verbose
  ))
}
tune_matrix <- function(...) tuned(cells$data, metadata = cells$metadata, ...)

# The same by the engine's Python function, without the package's R code.
tune_in_python <- function(label) {
  import_bridge()
  pandas <- reticulate::import("pandas", convert = FALSE)
  obs <- pandas$DataFrame(
    lapply(cells$metadata[c("system", "batch")], as.list),
    index = rownames(cells$metadata)
  )
  types <- lapply(as.character(cells$metadata$cell_type), function(type) if (is.na(type)) NaN else type)
  obs$insert(2L, "cell_type", pandas$Series(types, index = obs$index, dtype = "object"))
  x <- reticulate::import("numpy", convert = FALSE)$array(t(as.matrix(cells$data)), dtype = "float32")
  adata <- reticulate::import("anndata", convert = FALSE)$AnnData(
    x, obs,
    var = pandas$DataFrame(index = rownames(cells$data))
  )
  sysvi <- reticulate::import("sysvi", convert = FALSE)
  reticulate::import("warnings")$simplefilter("ignore")
  adata <- sysvi$prepare(adata, "system", "batch", normalize = FALSE, min_cells = 5L)
  found <- sysvi$tune(
    adata, "system", "batch", label,
    cycle_weights = c(0, 5), seeds = 2L, max_epochs = 2L, n_latent = 4L, min_cells = 20L,
    n_hidden = 16L, n_prior_components = 2L, device = "auto", progress = FALSE
  )
  list(
    runs = reticulate::py_to_r(found$runs), settings = reticulate::py_to_r(found$settings$reset_index()),
    embedding = reticulate::py_to_r(found$embedding), why = reticulate::py_to_r(found$why),
    warnings = as.character(reticulate::py_to_r(found$warnings)),
    chosen = lapply(
      list(found$cycle_weight, found$kl_weight, found$prior, found$seed), reticulate::py_to_r
    )
  )
}

test_that("runs, settings and the choice are those of Python, with labels and without", {
  for (label in list("cell_type", NULL)) {
    z <- tune_matrix(label)
    python <- tune_in_python(label)
    found <- Tuning(z)
    expect_identical(names(found$runs), names(python$runs))
    for (table in c("runs", "settings")) {
      numbers <- vapply(found[[table]], is.numeric, NA)
      for (name in names(numbers)) {
        expected <- as.vector(python[[table]][[name]])
        if (numbers[name]) expected <- nan_to_na(as.numeric(expected))
        expect_identical(found[[table]][[name]], expected, label = name)
      }
    }
    expect_identical(values(z), values(python$embedding))
    expect_equal(list(found$cycle_weight, found$kl_weight, found$prior, found$seed), python$chosen)
    expect_identical(found[c("why", "warnings")], python[c("why", "warnings")])
    expect_identical(found$mixing, if (is.null(label)) "shared mixing" else "iLISI")
    expect_identical(nrow(found$runs), 4L)
  }
})

test_that("with one run per setting, embedding and model are those of RunSysVI with the chosen setting", {
  z <- tune_matrix("cell_type", seeds = list(1))
  found <- Tuning(z)
  direct <- quietly(RunSysVI(
    cells$data, "system", "batch",
    metadata = cells$metadata, cycle_weight = found$cycle_weight, seed = found$seed, members = 1, max_epochs = 2,
    n_latent = 4, options = tiny, verbose = FALSE
  ))
  expect_equal(values(z), values(direct), tolerance = 1e-4) # models train in one thread each here
  expect_identical(dimnames(z), dimnames(direct))
  compared <- c("genes", "systems", "categorical", "model_settings", "train_settings", "seed")
  describe <- function(z) attr(z, "sysVI")[compared]
  expect_identical(describe(z), describe(direct))
  expect_identical(values(predict(attr(z, "sysVI"), cells$data, metadata = cells$metadata, verbose = FALSE)), values(z))
  expect_null(attr(z, "support"))
  again <- tune_matrix("cell_type", seeds = list(1), cycle_weights = 0, kl_weights = c(1, 2))
  expect_identical(Tuning(again)$runs[1:5], data.frame(
    cycle_weight = c(0, 0), kl_weight = c(1, 2), prior = "vamp", seed = c(1, 1), status = "finished"
  ))
})

test_that("the runs of the chosen setting are the members of an ensemble", {
  z <- tune_matrix("cell_type")
  expect_identical(attr(z, "sysVI")$members, 2L)
  expect_identical(attr(z, "sysVI")$seed, Tuning(z)$seed)
  expect_named(attr(z, "support_by_system"), c("system1", "system2"))
  expect_equal(attr(z, "support"), apply(attr(z, "support_by_system"), 1, max, na.rm = TRUE), tolerance = 1e-6)
  expect_identical(values(predict(attr(z, "sysVI"), cells$data, metadata = cells$metadata, verbose = FALSE)), values(z))
})

test_that("priors are compared, and the model has the chosen one", {
  z <- tune_matrix("cell_type", seeds = list(1), cycle_weights = 5, priors = c("vamp", "standard_normal"))
  found <- Tuning(z)
  expect_identical(found$runs$prior, c("vamp", "standard_normal"))
  expect_identical(found$prior, found$runs$prior[which.max(found$runs$overall)])
  expect_identical(attr(z, "sysVI")$model_settings$prior, found$prior)
  options <- tiny
  options$prior <- "standard_normal"
  direct <- quietly(RunSysVI(
    cells$data, "system", "batch",
    metadata = cells$metadata, cycle_weight = 5, seed = 1, members = 1, max_epochs = 2, n_latent = 4,
    options = options, verbose = FALSE
  ))
  only <- tune_matrix("cell_type", seeds = list(1), cycle_weights = 5, priors = "standard_normal")
  expect_equal(values(only), values(direct), tolerance = 1e-4)
})

test_that("a separate process gives the same result, with features and covariates too", {
  features <- rownames(cells$data)[1:60]
  call <- function(...) {
    tune_matrix("cell_type", features = features, continuous = age, covariates = cells$metadata["sex"], ...)
  }
  age <- setNames(seq_len(300) / 100, colnames(cells$data))
  cells$metadata$sex <- rep(c("f", "m"), 150)
  z <- call()
  expect_identical(call(process = "separate"), z)
  expect_identical(attr(z, "sysVI")$genes, features)
  expect_named(attr(z, "sysVI")$continuous, "continuous")
  expect_named(attr(z, "sysVI")$categorical, c("batch", "sex"))
})

test_that("Seurat objects of every kind give the result of the matrix and store it with the reduction", {
  skip_if_not_installed("SeuratObject")
  plain <- tune_matrix("cell_type")
  joined <- make_seurat(cells)
  split <- joined
  split[["RNA"]] <- split(split[["RNA"]], split$system)
  for (object in list(joined, split, make_seurat(cells, "v3"))) {
    object <- tuned(object, "cell_type")
    expect_identical(values(SeuratObject::Embeddings(object, "sysvi")), values(plain))
    expect_identical(Tuning(object), Tuning(plain))
  }
  reduction <- object[["sysvi"]]
  expect_identical(SeuratObject::Misc(reduction)$sysVI$train_settings, attr(plain, "sysVI")$train_settings)
  expect_identical(SeuratObject::Misc(reduction)$tuning, Tuning(plain))
  expect_identical(SeuratObject::Key(reduction), "sysvi_")
  expect_identical(SeuratObject::Command(object, "TuneSysVI.RNA")@params$label, "cell_type")
  file <- withr::local_tempfile(fileext = ".rds")
  saveRDS(object, file)
  expect_identical(Tuning(readRDS(file), "sysvi"), Tuning(plain))
  folder <- withr::local_tempdir()
  SaveSysVI(object, folder)
  expect_identical(LoadSysVI(folder)$seed, Tuning(plain)$seed)
  expect_sysvi_error(Tuning(object, "mix"), "holds no sysVI tuning: run TuneSysVI\\(\\) first")
  object <- tuned(object, reduction.name = "mix", reduction.key = "mix_", seeds = 1)
  expect_sysvi_error(Tuning(object), "holds 2 tunings: choose one with `name` \\('sysvi', 'mix'\\)")
  expect_identical(Tuning(object, "mix")$mixing, "shared mixing")
})

test_that("a SingleCellExperiment stores the tuning in its metadata until its embedding is replaced", {
  skip_if_not_installed("SingleCellExperiment")
  plain <- tune_matrix("cell_type")
  sce <- tuned(make_sce(cells), "cell_type")
  expect_identical(values(SingleCellExperiment::reducedDim(sce, "sysVI")), values(plain))
  expect_identical(Tuning(sce), Tuning(plain))
  expect_identical(S4Vectors::metadata(sce)$sysVI_tuning, Tuning(plain))
  expect_s3_class(S4Vectors::metadata(sce)$sysVI, "SysVIModel")
  expect_identical(Tuning(sce, "sysVI"), Tuning(plain))
  sce <- run(sce, "system", options = small)
  expect_sysvi_error(Tuning(sce), "holds no sysVI tuning")
})

test_that("an interrupted call continues from its folder", {
  local_two_threads()
  whole <- tune_matrix("cell_type", max_epochs = 20, seeds = 4)
  folder <- withr::local_tempdir()
  withr::local_dir(folder)
  call <- function(...) tune_matrix("cell_type", max_epochs = 20, seeds = 4, folder = "runs", ...)
  listen_and_interrupt <- function(verbose) {
    ended <- FALSE
    handle_event <- function(line) {
      stage <- jsonlite::fromJSON(line)$stage
      if (stage == "model") ended <<- TRUE
      if (stage == "epoch" && ended) signalCondition(structure(class = c("interrupt", "condition"), list()))
      stage
    }
    list(handle_event = handle_event, close = function() NULL, warnings = function() character())
  }
  with_mocked_bindings(
    expect_warning(part <- call(), "interrupted after [1-7] of 8 runs; .* The same call continues from there"),
    new_event_listener = listen_and_interrupt
  )
  finished <- sum(Tuning(part)$runs$status == "finished")
  expect_true(finished %in% 1:7)
  for (process in c("separate", "session")) {
    expect_message(z <- call(verbose = TRUE, process = process), sprintf("%d of 8 runs are there already", finished)) |>
      suppressMessages()
    expect_equal(values(z), values(whole), tolerance = 1e-6) # embedded in one thread
    expect_equal(Tuning(z)$runs, Tuning(whole)$runs, tolerance = 1e-6)
    finished <- 8L
  }
  more <- call(cycle_weights = c(0, 5, 20))
  expect_identical(nrow(Tuning(more)$runs), 12L)
  expect_sysvi_error(
    tuned(cells$data, "cell_type", metadata = cells$metadata, folder = "runs"),
    "runs holds runs with other settings: choose another folder"
  )
})

test_that("progress is shown unless verbose = FALSE", {
  expect_silent(tune_matrix("cell_type"))
  messages <- testthat::capture_messages(tune_matrix("cell_type", verbose = TRUE))
  for (text in c("Measured with 3 cell types", "Training 4 models", "cycle weight 5, .* finished", "4 of 4 models")) {
    expect_match(messages, text, all = FALSE)
  }
})

test_that("the defaults are the engine's and RunSysVI's", {
  signature <- "__import__('inspect').signature(__import__('sysvi').tune).parameters.items()"
  import_bridge()
  engine <- reticulate::py_eval(sprintf("{k: p.default for k, p in %s if p.default is not p.empty}", signature))
  ours <- lapply(formals(TuneSysVI.default), function(default) if (!identical(default, quote(expr = ))) eval(default))
  for (name in c("cycle_weights", "kl_weights", "priors", "seeds", "min_cells", "max_cells", "device")) {
    expect_equal(ours[[name]], unlist(engine[[name]]), label = name)
  }
  shared <- setdiff(intersect(names(formals(RunSysVI.default)), names(ours)), c("...", "object", "system", "folder"))
  for (name in shared) expect_identical(formals(RunSysVI.default)[[name]], formals(TuneSysVI.default)[[name]])
})

test_that("errors say which argument cannot be used", {
  expect_sysvi_error(tune_matrix(seed = 5), "Unknown argument: see `\\?sysvi_options`.*seed = 5")
  for (wrong in list("5", c(1, NA), -1, c(2, 2), Inf, numeric(), list(2))) {
    expect_sysvi_error(
      tune_matrix(cycle_weights = wrong), "`cycle_weights` must be one or more different finite numbers of 0 or more"
    )
  }
  expect_sysvi_error(tune_matrix(kl_weights = "1"), "`kl_weights` must be")
  for (wrong in list(0, 2.5, c(1, 1), "3", NA, list(), -1)) {
    expect_sysvi_error(tune_matrix(seeds = wrong), "`seeds` must be the number of runs per setting")
  }
  expect_sysvi_error(
    tune_matrix(options = sysvi_options(kl_weight = 0.5)), "no kl_weight from `options`: give kl_weights = 0.5"
  )
  expect_sysvi_error(
    tune_matrix(options = sysvi_options(prior = "gmm")), "no prior from `options`: give priors = \"gmm\""
  )
  for (wrong in list("normal", NULL, 1, c("gmm", "gmm"))) {
    expect_sysvi_error(
      tune_matrix(priors = wrong), "`priors` must be one or more different ones of 'vamp', 'gmm', 'standard_normal'"
    )
  }
  expect_sysvi_error(tune_matrix(options = list()), "`options` must be a value of `sysvi_options")
  expect_sysvi_error(tune_matrix(label = "type"), "label = \"type\" is not a column of the metadata")
  expect_sysvi_error(
    tune_matrix(label = "batch"), "'batch' is named more than once among system, batch, label and covariates"
  )
  expect_sysvi_error(tune_matrix(folder = 1), "`folder` must be a string, not 1")
  file <- withr::local_tempfile()
  file.create(file)
  expect_sysvi_error(tune_matrix(folder = file.path(file, "runs")), "The folder .* cannot be created")
  expect_sysvi_error(Tuning(cells$data), "holds no sysVI tuning: run TuneSysVI\\(\\) first")
  unlabelled <- transform(cells$metadata, cell_type = "unknown")
  expect_sysvi_error(tuned(cells$data, "cell_type", metadata = unlabelled), "'cell_type' \\(label\\) labels no cell")
})
