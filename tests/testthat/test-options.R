engine_defaults <- function(class) {
  import_bridge()
  jsonlite::fromJSON(reticulate::import("json")$dumps(
    reticulate::import("dataclasses", convert = FALSE)$asdict(reticulate::import("sysvi", convert = FALSE)[[class]]())
  ))
}

test_that("the defaults are the engine's", {
  skip_without_engine()
  engine <- c(engine_defaults("ModelSettings"), engine_defaults("TrainSettings"))
  ours <- c(
    unclass(sysvi_options()),
    lapply(formals(RunSysVI.default)[c("cycle_weight", "max_epochs", "n_latent", "seed")], eval)
  )
  shared <- intersect(names(ours), names(engine))
  expect_in(setdiff(names(engine), shared), "likelihood") # there is only one, the Gaussian
  expect_setequal(setdiff(names(ours), shared), c("pseudoinputs_label", "weight_systems", "min_cells"))
  expect_null(ours$train_size) # the engine's, which follows early_stopping
  for (name in setdiff(shared, "train_size")) {
    expect_equal(as.vector(ours[[name]]), engine[[name]][seq_along(ours[[name]])], label = name)
  }
  defaults <- reticulate::py_eval("{k: p.default for k, p in __import__('inspect').signature(
    __import__('sysvi').prepare).parameters.items() if k in ('n_top_genes', 'min_cells')}")
  expect_equal(defaults$n_top_genes, formals(RunSysVI.default)$n_top_genes)
  expect_equal(defaults$min_cells, sysvi_options()$min_cells)
})

test_that("every option reaches the engine", {
  skip_without_engine()
  cells <- make_cells()
  given <- list(
    kl_weight = 0.5, reconstruction_weight = 2, adversarial_weight = c(1, 0.2, 0.4), prior = "gmm",
    mixture_share = c(0.9, 0.2, 0.5), n_prior_components = 3L, mixture = "joint", pseudoinputs = "system",
    pseudoinputs_system = "mouse",
    trainable_priors = FALSE, n_hidden = 8L, n_layers = 1L, dropout_rate = 0.2, out_var_mode = "sample_feature",
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
    ModelSettings = c("prior", "mixture", "pseudoinputs", "out_var_mode"),
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
})

test_that("options print", {
  expect_output(print(sysvi_options(kl_weight = 0.5)), "kl_weight = 0.5")
})
