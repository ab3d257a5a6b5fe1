engine_defaults <- function(class) {
  import_bridge()
  jsonlite::fromJSON(reticulate::import("json")$dumps(
    reticulate::import("dataclasses", convert = FALSE)$asdict(reticulate::import("sysvi", convert = FALSE)[[class]]())
  ))
}

test_that("the defaults are the engine's", {
  skip_without_engine()
  engine <- c(engine_defaults("ModelSettings"), engine_defaults("TrainSettings"))
  of_run <- formals(RunSysVI.default)
  ours <- lapply(c(formals(sysvi_options), of_run[c("n_latent", "seed")]), eval)
  ours <- lapply(ours, function(default) if (is.character(default)) default[1L] else default) # the first choice
  shared <- intersect(names(ours), names(engine))
  of_preset <- c("cycle_weight", "max_epochs") # left to the preset
  expect_null(eval(of_run$cycle_weight))
  expect_null(eval(of_run$max_epochs))
  expect_setequal(setdiff(names(engine), shared), c("likelihood", of_preset)) # there is one likelihood, the Gaussian
  expect_setequal(setdiff(names(ours), shared), c("pseudoinputs_label", "weight_systems", "min_cells"))
  expect_null(ours$train_size) # the engine's, which follows early_stopping
  for (name in setdiff(shared, "train_size")) {
    expect_equal(as.vector(ours[[name]]), engine[[name]][seq_along(ours[[name]])], label = name)
  }
  defaults <- reticulate::py_eval("{k: p.default for k, p in __import__('inspect').signature(
    __import__('sysvi').prepare).parameters.items() if k in ('n_top_genes', 'min_cells')}")
  expect_equal(defaults$n_top_genes, of_run$n_top_genes)
  expect_equal(defaults$min_cells, formals(sysvi_options)$min_cells)
  expect_equal(call_engine("defaults", list())$values$members, of_run$members)
})

test_that("arguments and options that are not given are left to the engine", {
  cells <- make_cells()
  local_mocked_bindings(call_engine = function(task, values, ...) rlang::abort("sent", "sent", values = values))
  send <- function(...) {
    rlang::catch_cnd(RunSysVI(cells$data, "system", metadata = cells$metadata, ...), "sent")$values
  }
  sent <- send()
  expect_length(sent$settings, 0L)
  expect_identical(as.character(to_json(sent["settings"])), "{\"settings\":{}}")
  expect_identical(sent[c("members", "preset")], list(members = NULL, preset = NULL))
  expect_null(sent$choose_genes$min_cells)
  sent <- send(
    cycle_weight = 3, n_latent = 4L, members = 2L, preset = "paper",
    options = sysvi_options(prior = "gmm", lr = NULL, min_cells = 5L)
  )
  expect_mapequal(sent$settings, list(cycle_weight = 3, n_latent = 4L, prior = "gmm"))
  expect_identical(sent[c("members", "preset")], list(members = 2L, preset = "paper"))
  expect_identical(sent$choose_genes$min_cells, 5L)
})

test_that("the preset has the engine's settings, except for those that are given", {
  skip_without_engine()
  cells <- make_cells()
  train <- function(...) {
    attr(run_ensemble(cells$data, "system", metadata = cells$metadata, preset = "paper", ...), "sysVI")
  }
  paper <- train(options = sysvi_options(n_hidden = 16L, lr_schedule = "cosine"))
  used <- c(paper$model_settings, paper$train_settings)
  engine <- python("{k: list(v) if isinstance(v, tuple) else v
    for k, v in __import__('sysvi._core.settings', fromlist=['PAPER']).PAPER.settings.items()}")
  for (name in setdiff(names(engine), "n_hidden")) expect_equal(used[[name]], engine[[name]], label = name)
  expect_equal(used[c("n_hidden", "lr_schedule")], list(n_hidden = 16, lr_schedule = "cosine"))
  expect_identical(paper$members, 1L)
  expect_equal(train(cycle_weight = 3, options = small)$train_settings$cycle_weight[1L], 3)
})

test_that("every option reaches the engine", {
  skip_without_engine()
  cells <- make_cells()
  given <- list(
    kl_weight = 0.5, reconstruction_weight = 2, adversarial_weight = c(1, 0.2, 0.4), prior = "gmm",
    mixture_share = c(0.9, 0.2, 0.5), n_prior_components = 3L, mixture = "joint", pseudoinputs = "system",
    pseudoinputs_system = "mouse",
    trainable_priors = FALSE, n_hidden = 8L, n_layers = 1L, dropout_rate = 0.2, out_var_mode = "sample_feature",
    covariates_in_hidden = FALSE, initialisation = "random",
    embed_categorical_covariates = TRUE, embedding_dim = 3L, swapped_covariates = "observed", batch_size = 50L,
    lr = 0.002, lr_schedule = "cosine", weight_decay = 1e-5, eps = 0.02, clip_norm = 5, train_size = 0.8,
    early_stopping = TRUE, patience = 7L, precision = "float32"
  )
  options <- do.call(sysvi_options, c(given, list(weight_systems = TRUE, min_cells = 5L)))
  z <- run(cells$data, "system", "batch", metadata = cells$metadata, options = options,
           cycle_weight = c(3, 0.1, 0.5), n_latent = 4L, seed = 7L)
  model <- attr(z, "sysVI")
  used <- c(model$model_settings, model$train_settings)
  for (name in names(given)) {
    expect_equal(used[[name]][seq_along(given[[name]])], given[[name]], label = name)
  }
  expect_equal(used$cycle_weight, c(3, 0.1, 0.5))
  expect_equal(c(used$n_latent, model$seed, used$max_epochs), c(4, 7, 1))
  expect_true(any(grepl("_validation$", names(model$history))))
  labels <- sysvi_options(pseudoinputs = "balanced_label", pseudoinputs_label = "batch", n_hidden = 8L)
  expect_equal(dim(run(cells$data, "system", metadata = cells$metadata, options = labels)), c(240L, 15L))
  fewer <- run(cells$data, "system", metadata = cells$metadata, n_top_genes = 30L, options = small)
  expect_lt(length(attr(fewer, "sysVI")$genes), 31L)
})

test_that("early stopping alone holds out a tenth, and all cells are trained on by default", {
  skip_without_engine()
  cells <- make_cells()
  trained_on <- function(...) {
    z <- run(cells$data, "system", metadata = cells$metadata, options = sysvi_options(n_hidden = 8L, ...))
    attr(z, "sysVI")$train_settings$train_size
  }
  expect_equal(trained_on(early_stopping = TRUE), 0.9)
  expect_equal(trained_on(), 1)
})

test_that("every choice is known to the engine", {
  skip_without_engine()
  import_bridge()
  sysvi <- reticulate::import("sysvi", convert = FALSE)
  settings <- list(
    ModelSettings = c("prior", "mixture", "pseudoinputs", "out_var_mode", "initialisation"),
    TrainSettings = c("swapped_covariates", "lr_schedule", "precision")
  )
  choices <- Filter(is.character, lapply(formals(sysvi_options), eval))
  expect_setequal(names(choices), unlist(settings))
  for (class in names(settings)) {
    for (name in settings[[class]]) {
      construct <- function(value) do.call(sysvi[[class]], setNames(list(value), name))
      for (choice in choices[[name]]) expect_no_error(construct(choice))
      message <- tryCatch(construct("no such choice"), error = conditionMessage)
      for (choice in choices[[name]]) expect_match(message, choice, fixed = TRUE)
      listed <- regmatches(message, gregexpr(",", message, fixed = TRUE))[[1L]]
      expect_length(choices[[name]], length(listed) + 1L) # the engine has no choice that R lacks
    }
  }
})

test_that("defaults of the other functions are the engine's", {
  skip_without_engine()
  import_bridge()
  for (functions in list(
    list(BatchStrength.default, "batch_strength", c("min_cells", "n_pcs", "seed")),
    list(EvaluateIntegration.default, "evaluate_in_detail",
         c("metrics", "standardised", "min_cells", "max_cells", "device", "seed"))
  )) {
    signature <- sprintf("__import__('inspect').signature(__import__('sysvi').%s).parameters.items()", functions[[2]])
    engine <- reticulate::py_eval(sprintf("{k: p.default for k, p in %s if p.default is not p.empty}", signature))
    for (name in functions[[3]]) {
      expect_true(name %in% names(engine), label = name)
      expect_equal(eval(formals(functions[[1]])[[name]]), engine[[name]], label = name)
    }
  }
})

test_that("options are neither NA nor, where NULL has no meaning, NULL", {
  expect_sysvi_error(sysvi_options(weight_decay = NA), "`weight_decay` must be a number, not NA")
  expect_sysvi_error(sysvi_options(n_hidden = NULL), "`n_hidden` must be a whole number, not NULL")
  expect_sysvi_error(sysvi_options(lr = NaN), "`lr` must be a number or NULL, not NaN")
  expect_null(sysvi_options(lr = NULL)$lr)
  expect_identical(unclass(sysvi_options(lr = NULL, prior = "gmm", 0.5)), list(kl_weight = 0.5, prior = "gmm"))
})

test_that("options print", {
  expect_output(print(sysvi_options(kl_weight = 0.5)), "kl_weight = 0.5")
  expect_output(print(sysvi_options()), "all settings have their defaults")
})
