# Two embeddings that separate two cell types; `pca` separates the systems too. Seven cells have no type.
cells <- make_cells()
cells$metadata$type <- rep(c("alpha", "beta", "beta"), length.out = 240)
embeddings <- withr::with_seed(2, {
  z <- matrix(rnorm(240 * 4), 240, dimnames = list(rownames(cells$metadata), NULL))
  z[, 1] <- z[, 1] + 5 * (cells$metadata$type == "alpha")
  list(pca = z + outer(4 * (cells$metadata$system == "human"), c(0, 1, 1, 0)), sysvi = z)
})
cells$metadata$type[c(3, 30:35)] <- NA
evaluate <- function(object, ..., verbose = FALSE) {
  EvaluateIntegration(object, "system", "batch", "type", ..., min_cells = 20, verbose = verbose)
}
evaluate_matrices <- function(...) evaluate(embeddings, metadata = cells$metadata, expression = cells$data, ...)
make_reduction <- function(name) {
  key <- paste0(name, "_")
  z <- embeddings[[name]]
  colnames(z) <- paste0(key, seq_len(ncol(z)))
  SeuratObject::CreateDimReducObject(z, key = key, assay = "RNA")
}

# The same by the engine's Python function, without the package's R code.
evaluate_in_python <- function(max_cells = NULL) {
  import_bridge()
  np <- reticulate::import("numpy", convert = FALSE)
  pandas <- reticulate::import("pandas", convert = FALSE)
  anndata <- reticulate::import("anndata", convert = FALSE)
  obs <- pandas$DataFrame(lapply(cells$metadata[c("system", "batch")], as.list), index = rownames(cells$metadata))
  types <- lapply(cells$metadata$type, function(type) if (is.na(type)) NaN else type)
  obs$insert(2L, "type", pandas$Series(types, index = obs$index, dtype = "object"))
  adata <- anndata$AnnData(
    np$array(t(as.matrix(cells$data)), dtype = "float32"), obs,
    obsm = list(X_pca = embeddings$pca, sysvi = embeddings$sysvi)
  )
  found <- suppressWarnings(reticulate::import("sysvi", convert = FALSE)$evaluate_in_detail(
    adata, c("X_pca", "sysvi"),
    system_key = "system", batch_key = "batch", label_key = "type", min_cells = 20L, max_cells = max_cells,
    device = "cpu", progress = FALSE
  ))
  list(
    metric = reticulate::py_to_r(found$table$index$tolist()),
    scores = reticulate::py_to_r(found$table$filter(c("X_pca", "sysvi"))$to_numpy("float64")),
    per_label = reticulate::py_to_r(found$per_label$value$to_numpy()),
    per_cell = reticulate::py_to_r(found$per_cell$to_numpy()),
    cells = reticulate::py_to_r(found$per_cell$index$tolist()),
    notes = length(reticulate::py_to_r(found$notes))
  )
}

expect_same_as_python <- function(found, python) {
  expect_identical(found$table$metric, python$metric)
  expect_equal(as.matrix(found$table[c("pca", "sysvi")]), nan_to_na(python$scores), ignore_attr = TRUE)
  expect_equal(found$per_label$value, as.vector(python$per_label))
  expect_equal(as.matrix(found$per_cell), nan_to_na(python$per_cell), ignore_attr = TRUE)
  expect_identical(rownames(found$per_cell), python$cells)
  expect_length(found$notes, python$notes)
}

test_that("values are those of Python; unlabelled cells are left out where labels are needed", {
  skip_without_engine()
  found <- evaluate_matrices()
  expect_same_as_python(found, evaluate_in_python())
  expect_true(found$table$sysvi[found$table$metric == "iLISI"] > found$table$pca[found$table$metric == "iLISI"])
  expect_false(anyNA(found$table$sysvi))
  expect_identical(which(is.na(found$per_cell[["sysvi: cLISI"]])), c(3L, 30:35))
  expect_match(found$notes, "7 of 240 cells have no label", all = FALSE)
  sampled <- evaluate_matrices(max_cells = 120)
  expect_same_as_python(sampled, evaluate_in_python(120L))
})

test_that("a separate process gives the same result", {
  skip_without_engine()
  expect_identical(evaluate_matrices(process = "separate"), evaluate_matrices())
})

test_that("Seurat and SingleCellExperiment objects give the matrices' numbers", {
  skip_without_engine()
  plain <- evaluate_matrices()
  skip_if_not_installed("SeuratObject")
  object <- make_seurat(cells)
  for (name in names(embeddings)) object[[name]] <- make_reduction(name)
  expect_identical(evaluate(object), plain)
  split <- object
  split[["RNA"]] <- split(split[["RNA"]], split$system)
  expect_identical(evaluate(split), plain)
  expect_identical(evaluate(object, reductions = "sysvi")$table$sysvi, plain$table$sysvi)
  suppressWarnings(object[["pca"]] <- subset(object[["pca"]], cells = colnames(object)[1:100]))
  expect_match(evaluate(object, reductions = "sysvi")$table$convention, "before: 50 PCs", all = FALSE)
  skip_if_not_installed("SingleCellExperiment")
  sce <- make_sce(cells)
  SingleCellExperiment::reducedDims(sce) <- list(PCA = embeddings$pca, sysVI = embeddings$sysvi)
  found <- evaluate(sce)
  expect_identical(colnames(found$table)[3:4], c("PCA", "sysVI"))
  expect_identical(unname(found$table[3:4]), unname(plain$table[3:4]))
  expect_match(found$table$convention[found$table$metric == "PCR comparison"], "before: 'PCA'")
})

test_that("neither the order of cells nor the kind of columns matters", {
  skip_without_engine()
  found <- evaluate_matrices()
  reversed <- list(pca = embeddings$pca, sysvi = embeddings$sysvi[240:1, ])
  expect_identical(
    evaluate(reversed, metadata = cells$metadata[240:1, ], expression = cells$data[, 240:1]), found
  )
  named <- lapply(as.list(cells$metadata), setNames, rownames(cells$metadata))
  by_vector <- EvaluateIntegration(
    embeddings, named$system, named$batch, named$type,
    expression = cells$data, min_cells = 20, verbose = FALSE
  )
  expect_identical(by_vector, found)
})

test_that("expression is read only if a metric needs it, and is optional", {
  skip_without_engine()
  unread <- EvaluateIntegration(
    embeddings, "system",
    metadata = cells$metadata, expression = stop("was read"), verbose = FALSE
  )
  expect_identical(unread$table$metric[1:2], c("iLISI", "PCR comparison"))
  without <- evaluate(embeddings["sysvi"], metadata = cells$metadata)
  expect_identical(without$table$metric[is.na(without$table$sysvi)], c("PCR comparison", "Moran"))
  expect_match(without$notes, "There is no expression", all = FALSE)
  one <- EvaluateIntegration(
    embeddings["sysvi"], "system",
    metadata = cells$metadata, expression = cells$data,
    metrics = "PCR comparison", features = rownames(cells$data)[1:40], verbose = FALSE
  )
  expect_identical(one$table$metric, c("PCR comparison", "Batch correction"))
  expect_false(anyNA(one$table$sysvi))
  standardised <- evaluate_matrices(metrics = c("iLISI", "NMI"), standardised = TRUE)
  expect_identical(
    colnames(as.data.frame(standardised))[3:6], c("pca", "pca (standardised)", "sysvi", "sysvi (standardised)")
  )
})

test_that("only a PCA that is not named by the user may be absent", {
  skip_without_engine()
  skip_if_not_installed("SeuratObject")
  object <- make_seurat(cells)
  expect_sysvi_error(evaluate(object), "no reduction 'sysvi' \\(it has none\\): run RunSysVI") |>
    expect_message("has no reduction 'pca'")
  object[["sysvi"]] <- make_reduction("sysvi")
  expect_message(found <- evaluate(object, metrics = "iLISI"), "has no reduction 'pca'; it is left out")
  expect_identical(colnames(found$table)[3], "sysvi")
  expect_sysvi_error(evaluate(object, reductions = c("pca", "sysvi")), "no reduction 'pca' \\(it has 'sysvi'\\)")
})

test_that("an object has its own metadata and expression", {
  skip_if_not_installed("SeuratObject")
  object <- make_seurat(cells)
  for (name in names(embeddings)) object[[name]] <- make_reduction(name)
  for (name in c("metadata", "expression")) {
    given <- setNames(list(cells[[if (name == "metadata") name else "data"]]), name)
    expect_sysvi_error(do.call(evaluate, c(list(object), given)), "are for lists of embeddings only")
  }
})

test_that("errors say why an integration cannot be measured", {
  expect_error(evaluate_matrices(resolution = 2), "must be empty.*resolution = 2", class = "rlib_error_dots_nonempty")
  expect_sysvi_error(evaluate_matrices(metrics = 1), "`metrics` must be")
  expect_sysvi_error(evaluate(embeddings$pca), "`object` is a matrix: give a Seurat")
  expect_sysvi_error(evaluate(unname(embeddings), metadata = cells$metadata), "must name each embedding once")
  nameless <- list(pca = unname(embeddings$pca))
  expect_sysvi_error(
    evaluate(nameless, metadata = cells$metadata), "Embedding 'pca' has no cell names: set its row names"
  )
  fewer <- list(pca = embeddings$pca, sysvi = embeddings$sysvi[-1, ])
  expect_sysvi_error(
    evaluate(fewer, metadata = cells$metadata), "Embedding 'sysvi' lacks 1 of the 240 cells.*'cell001'"
  )
  expect_sysvi_error(evaluate(embeddings, metadata = cells$metadata[-1, ]), "`metadata` lacks 1 of the 240 cells")
  expect_sysvi_error(evaluate(embeddings, metadata = cells$metadata["system"]), "batch = \"batch\" is not a column")
  expect_sysvi_error(
    EvaluateIntegration(embeddings, "system", "system", metadata = cells$metadata), "'system' is named more than once"
  )
  human <- cells$metadata$system == "human"
  expect_sysvi_error(
    evaluate(lapply(embeddings, function(z) z[human, ]), metadata = cells$metadata), "holds one system only \\(human\\)"
  )
  skip_without_engine()
  expect_sysvi_error(
    evaluate_matrices(metrics = "LISI"), "There is no metric LISI; choose 'default', 'all', or some of: iLISI"
  )
  expect_sysvi_error(
    evaluate(embeddings, metadata = cells$metadata, expression = cells$counts),
    "The matrix looks like raw counts: give log-normalised values"
  )
  expect_sysvi_error(
    evaluate(embeddings, metadata = cells$metadata, expression = cells$data[, -1]),
    "The matrix lacks 1 of the 240 cells of the embeddings"
  )
  unknown <- transform(cells$metadata, type = NA)
  expect_sysvi_error(evaluate(embeddings, metadata = unknown), "'type' \\(label\\) labels no cell")
  broken <- replace(embeddings, "sysvi", list(replace(embeddings$sysvi, 1, NA)))
  expect_sysvi_error(
    evaluate(broken, metadata = cells$metadata), "'sysvi' cannot be measured. The embedding of 1 of 240"
  )
})

test_that("print and plot show the table", {
  table <- data.frame(
    metric = c("iLISI", "Batch silhouette", "NMI", "Moran", "Batch correction", "Total"),
    group = rep(c("batch correction", "biological preservation", "within-type", "aggregate"), c(2, 1, 1, 2)),
    pca = c(0.01, 0.4, 0.9, NA, 0.01, 0.544), "a longer name" = c(0.8, 0.5, 0.7, NA, 0.8, 0.74),
    in_score = c(TRUE, FALSE, TRUE, TRUE, FALSE, FALSE), convention = "", check.names = FALSE
  )
  found <- structure(list(table = table, notes = "Moran is not measured."), class = "SysVIEvaluation")
  expect_snapshot(found)
  expect_identical(as.data.frame(found), table)
  skip_if_not_installed("ggplot2")
  drawn <- plot(found)
  expect_s3_class(drawn, "ggplot")
  expect_identical(levels(drawn$data$reduction), c("pca", "a longer name")) # the best total is drawn on top
  expect_false("Moran" %in% drawn$data$metric)
  expect_silent(ggplot2::ggplot_build(drawn))
  found$table[3:4] <- NA_real_
  expect_sysvi_error(plot(found), "no score to draw")
})
