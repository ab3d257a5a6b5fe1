# A table of inputs that cannot be used: each is refused in one sentence of R's own words, and leaves no file.
# A row: what is wrong, the call, and words that the message must contain.
cells <- make_cells()
cells$metadata$label <- rep(c("T", "B", "NK"), 80)
embedding <- matrix(rnorm(480), 240, dimnames = list(colnames(cells$data), NULL))
joined <- list(human = cells$counts[, 1:120], mouse = cells$counts[, 121:240])

train <- function(object = cells$data, ..., metadata = cells$metadata) {
  run(object, "system", ..., metadata = metadata, options = small)
}
train_with <- function(...) run(cells$data, "system", metadata = cells$metadata, options = sysvi_options(...))
measure <- function(object = embedding, ..., metadata = cells$metadata) {
  EvaluateIntegration(list(new = object), "system", ..., metadata = metadata, verbose = FALSE)
}
strength <- function(label = "label", ..., metadata = cells$metadata) {
  BatchStrength(cells$data, "system", "batch", label, ..., metadata = metadata, verbose = FALSE)
}
compare_weights <- function(...) {
  TuneSysVI(cells$data, "system", "batch", "label", ..., metadata = cells$metadata, verbose = FALSE)
}
join <- function(objects = joined, ...) suppressWarnings(PrepareSystems(objects, ..., verbose = FALSE))
changed <- function(column, value, rows = 1L) {
  cells$metadata[rows, column] <- value
  cells$metadata
}

refused_by_r <- list(
  list("a list", quote(train(list(1, 2))), "`object` is a list"),
  list("NULL", quote(train(NULL)), "object"),
  list("cells without names", quote(train(unname(cells$data))), "names"),
  list("no such batch", quote(train(batch = "donor")), "batch = \"donor\" is not a column"),
  list("missing batches", quote(train(batch = "batch", metadata = changed("batch", NA))), "has 1 missing value"),
  list("empty batches", quote(train(batch = "batch", metadata = changed("batch", "", 1:3))), "has 3 missing values"),
  list("no such continuous column", quote(train(continuous = "weight")), "continuous = \"weight\" is not a column"),
  list("no such label", quote(measure(label = "type")), "label = \"type\" is not a column"),
  list("no metrics", quote(measure(metrics = character())), "`metrics` must be"),
  list("numbers as metrics", quote(measure(metrics = 3)), "`metrics` must be"),
  list("no such label of strength", quote(strength("type")), "label = \"type\" is not a column"),
  list("objects that are no list", quote(join(cells$counts)), "objects"),
  list("objects without names", quote(join(unname(joined))), "name"),
  list("one object", quote(join(joined["human"])), "two"),
  list("no such reference", quote(join(reference = "rat")), "reference"),
  list("no such folder", quote(LoadSysVI(file.path(tempdir(), "absent"))), "absent"),
  list("a text as a setting", quote(sysvi_options(dropout_rate = "much")), "dropout_rate"),
  list("an unknown prior", quote(sysvi_options(prior = "flat")), "prior"),
  list("a weight twice", quote(compare_weights(cycle_weights = c(2, 2))), "cycle_weights"),
  list("a negative weight", quote(compare_weights(cycle_weights = -1)), "cycle_weights"),
  list("no seeds", quote(compare_weights(seeds = 0L)), "seeds"),
  list("half an epoch", quote(train(max_epochs = 0.5)), "max_epochs"),
  list("no members", quote(train(members = 0L)), "members")
)

refused_by_the_engine <- list(
  list("an infinite age", quote(train(continuous = "age", metadata = changed("age", Inf))), "'age'.*finite"),
  list("a setting out of range", quote(train_with(n_hidden = 0L)), "n_hidden"),
  list("one system", quote(train(metadata = changed("system", "human", 1:240))), "one system only"),
  list("a small system", quote(train(metadata = changed("system", "rat", 1:4))), "[Ss]ystem 'rat'"),
  list("no such device", quote(train(device = "tpu")), "tpu"),
  list("an unknown metric", quote(measure(metrics = "beauty")), "beauty"),
  list("an embedding of NaN", quote(measure(replace(embedding, 5, NaN))), "finite"),
  list("no labels", quote(measure(label = "label", metadata = changed("label", "unknown", 1:240))), "labels no cell"),
  list("an absent table", quote(join(orthologs = "absent.csv")), "There is no orthologue table 'absent.csv'")
)

expect_refusals <- function(rows) {
  for (row in rows) {
    folder <- withr::local_tempdir()
    withr::with_dir(folder, {
      error <- tryCatch(
        {
          eval(row[[2]])
          NULL
        },
        error = identity
      )
    })
    expect(!is.null(error), paste0(row[[1]], ": was not refused"))
    if (is.null(error)) next
    message <- conditionMessage(error)
    expect(
      inherits(error, c("sysvi_error", "rlang_error")), paste0(row[[1]], ": another kind of error: ", class(error)[1])
    )
    expect(grepl(row[[3]], message), paste0(row[[1]], ": ", class(error)[1], ": ", message))
    expect(!grepl("Traceback|\\badata|_key\\b|\\bNone\\b", message), paste0(row[[1]], ": words of Python: ", message))
    expect_identical(list.files(folder, all.files = TRUE, no.. = TRUE), character())
  }
}

test_that("bad inputs are refused before the engine is needed", {
  expect_refusals(refused_by_r)
})

test_that("bad inputs are refused by the engine", {
  skip_without_engine()
  expect_refusals(refused_by_the_engine)
})
