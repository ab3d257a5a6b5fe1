#' Integrate systems
#'
#' Trains sysVI on log-normalised expression and returns one embedding of all
#' cells in which systems and batches are mixed and cell types are kept.
#'
#' @details
#' The *system* is the substantial effect (species, organoid and tissue, cells
#' and nuclei, protocol), the *batch* a weaker one inside the systems (sample,
#' donor). Are systems apart still? `cycle_weight = 20` (or 50) mixes more where
#' training is long enough.
#'
#' Raw counts and scaled values are recognised and refused. Layers are not
#' joined, matrices are neither transposed nor made dense, and matrices on disk
#' are read in blocks of cells; the engine holds the chosen genes' values in
#' memory, 8 bytes for each that is not zero.
#'
#' Unless `features` are given, the engine chooses variable genes in each system
#' by itself, there by batch, and keeps those variable in every system: this
#' decides much of the result, and genes variable in one system only do harm.
#'
#' Ctrl-C or Esc ends training after the current step; the result is that of the
#' model so far, with a warning. A second one ends everything, and nothing is
#' changed.
#'
#' A warning says where the embedding leaves a system apart, and what to try; it
#' needs no cell types.
#'
#' @param object A Seurat object, a SingleCellExperiment, or a matrix of genes x
#'   cells of any kind: dense, sparse (Matrix), DelayedArray/HDF5Array, or
#'   BPCells.
#' @param system,batch Names of columns of the metadata, or vectors named by
#'   cell. No values may be missing.
#' @param metadata Data frame with one row a cell, row names the cells' names.
#' @param covariates,continuous Further categorical and continuous effects to
#'   correct: names of metadata columns, data frames with cells as row names, or
#'   a vector named by cell.
#' @param features Genes to use; `NULL`: variable genes are chosen.
#' @param n_top_genes Variable genes to find in each system.
#' @param cycle_weight Strength of integration: a number (ramped up from a tenth
#'   to six tenths of training) or `c(value, start, end)`.
#' @param max_epochs Passes over the cells; `NULL`: by the number of cells.
#' @param n_latent Dimensions of the embedding.
#' @param device `"auto"` (an NVIDIA card if there is one), `"cpu"`, `"cuda"`,
#'   `"cuda:1"` or `"mps"`.
#' @param seed Whole number; the same seed gives the same embedding, on a CPU to
#'   the bit, with up to three threads or at a given number of more.
#' @param process `"session"` runs the engine inside R, `"separate"` in a
#'   process of its own, with the same result: for clashes between Python and R
#'   libraries in one process (OpenMP on macOS) and for data larger than memory.
#' @param verbose Show what is done, progress and time left.
#' @param options Further settings, see [sysvi_options()].
#' @param ... For the methods, the arguments of the default method from
#'   `covariates` on.
#'
#' @return The object with the embedding: a Seurat object with a reduction, a
#'   SingleCellExperiment with a reduced dimension, or, for a matrix, a matrix
#'   of cells x `n_latent`. The model (see [LoadSysVI()]) lies beside it as
#'   plain data that survives `saveRDS()`: in `Misc(object[["sysvi"]], "sysVI")`,
#'   `metadata(object)[["sysVI"]]` or `attr(x, "sysVI")`.
#'
#' @section Errors:
#' One sentence with the object, assay, layer or column and what to do: columns
#' that are missing or have missing values, one system only, raw counts or
#' scaled values, cells that differ between layers, no genes left, no Python.
#'
#' @references
#' Hrovatin, Moinfar et al. (2025). Integrating single-cell RNA-seq datasets
#' with substantial batch effects. BMC Genomics.
#'
#' @seealso [TuneSysVI()] to choose `cycle_weight`, [SysVIIntegration()] for
#'   `Seurat::IntegrateLayers()`, [PrepareSystems()] to join species,
#'   [SaveSysVI()].
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(cells$counts)
#' x@x <- log1p(x@x) # any log-normalised values will do for an example
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, max_epochs = 2, verbose = FALSE)
#' dim(z)
RunSysVI <- function(object, system, batch = NULL, ...) UseMethod("RunSysVI")

#' @rdname RunSysVI
#' @export
RunSysVI.default <- function(object, system, batch = NULL, metadata = NULL, covariates = NULL, continuous = NULL,
                             features = NULL, n_top_genes = 3000L, cycle_weight = 10, max_epochs = NULL,
                             n_latent = 15L, device = "auto", seed = 0L, process = c("session", "separate"),
                             verbose = TRUE, options = sysvi_options(), ...) {
  fit <- integrate_cells(
    cells_of(object, metadata = metadata), system, batch, covariates, continuous, features, n_top_genes,
    cycle_weight, max_epochs, n_latent, device, seed, process, verbose, options, ...
  )
  structure(fit$embedding, sysVI = fit$model)
}

#' @rdname RunSysVI
#' @param assay Assay with the expression: of a Seurat object the default one, of
#'   a SingleCellExperiment `"logcounts"`.
#' @param layer Layer with log-normalised expression, or several; `"data"` also
#'   means the parts of a split assay (`"data.human"`, `"data.mouse"`).
#' @param reduction.name,reduction.key Name of the new reduction, and what its
#'   columns' names start with.
#' @export
RunSysVI.Seurat <- function(object, system, batch = NULL, ..., assay = NULL, layer = "data",
                            reduction.name = "sysvi", reduction.key = "sysvi_") {
  check_string(reduction.name, "reduction.name")
  check_string(reduction.key, "reduction.key")
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  fit <- integrate_cells(cells_of(object, assay = assay, layer = layer), system, batch, ...)
  object[[reduction.name]] <- as_reduction(fit, assay, reduction.key)
  SeuratObject::LogSeuratCommand(object)
}

#' @rdname RunSysVI
#' @param name Name of the new reduced dimension.
#' @export
RunSysVI.SingleCellExperiment <- function(object, system, batch = NULL, ..., assay = "logcounts", name = "sysVI") {
  check_string(name, "name")
  fit <- integrate_cells(cells_of(object, assay = assay), system, batch, ...)
  add_reduced_dim(object, fit, name)
}

as_reduction <- function(fit, assay, key) {
  z <- fit$embedding
  colnames(z) <- paste0(key, seq_len(ncol(z)))
  kept <- list(sysVI = fit$model)
  kept$tuning <- fit$tuning
  SeuratObject::CreateDimReducObject(
    embeddings = z, stdev = apply(z, 2L, sd), key = key, assay = assay, misc = kept
  )
}

# Also takes away the tuning of an embedding that is replaced.
add_reduced_dim <- function(object, fit, name) {
  SingleCellExperiment::reducedDim(object, name) <- fit$embedding
  S4Vectors::metadata(object)[[name]] <- fit$model
  S4Vectors::metadata(object)[[tuning_of(name)]] <- fit$tuning
  object
}

tuning_of <- function(name) paste0(name, "_tuning")

integrate_cells <- function(cells, system, batch = NULL, covariates = NULL, continuous = NULL, features = NULL,
                            n_top_genes = 3000L, cycle_weight = 10, max_epochs = NULL, n_latent = 15L,
                            device = "auto", seed = 0L, process = c("session", "separate"), verbose = TRUE,
                            options = sysvi_options(), ...) {
  no_dots(...)
  check_options(options)
  check_given(cycle_weight = cycle_weight, seed = seed)
  fit <- train_on(
    "integrate", cells, system, batch, NULL, covariates, continuous, features, n_top_genes,
    list(cycle_weight = cycle_weight, max_epochs = max_epochs, n_latent = n_latent),
    device, process, verbose, options,
    own = list(seed = seed)
  )
  warn_if_interrupted(fit$model)
  fit
}

# Everything between the doors for data and a task of the engine that trains,
# "integrate" or "tune". `cells` as cells_of() describes them; `settings` of model
# and training beside `options`; `own` values of the task. Returns list(embedding,
# model, answer).
train_on <- function(task, cells, system, batch, label, covariates, continuous, features, n_top_genes, settings,
                     device, process, verbose, options, own) {
  process <- one_of(process, c("session", "separate"), "process")
  check_flag(verbose, "verbose")
  check_string(device, "device")
  check_given(n_latent = settings$n_latent)
  check_given(max_epochs = settings$max_epochs, .or_null = TRUE)
  if (is.null(features)) check_given(n_top_genes = n_top_genes)
  system <- categorical_column(one_column(system, "system", cells))
  check_systems(system$values, system$name)
  batch <- if (!is.null(batch)) categorical_column(one_column(batch, "batch", cells))
  covariates <- lapply(many_columns(covariates, "covariates", cells), categorical_column)
  continuous <- lapply(many_columns(continuous, "continuous", cells), continuous_column)
  label <- if (!is.null(label)) categorical_column(one_column(label, "label", cells, complete = FALSE))
  columns <- c(list(system), Filter(Negate(is.null), list(batch, label)), covariates, continuous)
  names <- check_named_once(columns, if (is.null(label)) "covariates" else "others (label, covariates)")
  start <- options$pseudoinputs_label
  if (!is.null(start)) {
    start <- categorical_column(one_column(start, "pseudoinputs_label", cells))
    if (!start$name %in% names) columns <- c(columns, list(start))
  }

  genes <- genes_of(cells, features)
  chosen <- c("pseudoinputs_label", "min_cells", "weight_systems")
  settings <- c(
    settings, list(pseudoinputs_label_key = start$name), unclass(options)[setdiff(names(options), chosen)]
  )
  values <- list(
    genes = I(genes), cells = I(cells$cells), columns = column_values(columns),
    system = system$name, batch = batch$name, label = label$name,
    categorical = I(vapply(covariates, `[[`, "", "name")), continuous = I(vapply(continuous, `[[`, "", "name")),
    weight_systems = options$weight_systems, device = device,
    choose_genes = if (is.null(features)) list(n_top_genes = n_top_genes, min_cells = options$min_cells),
    settings = Filter(Negate(is.null), settings)
  )
  answer <- call_engine(
    task, c(values, own), c(column_arrays(columns), order_array(cells)),
    stream = checked_stream(cells, genes, system$values), process = process, verbose = verbose
  )
  list(
    embedding = named_embedding(answer$arrays$embedding, cells$cells),
    model = read_model(as.raw(answer$arrays$model)),
    answer = answer
  )
}

no_dots <- function(..., .of = "RunSysVI", .for = "", .rarer = ", and ?sysvi_options for rarer settings") {
  if (...length()) {
    extra <- ...names()
    abort(
      "%s() has no argument %s%s; see ?%s%s.",
      .of, if (is.null(extra)) "without a name here" else quoted(extra), .for, .of, .rarer
    )
  }
}

order_array <- function(cells) {
  order <- row_order(cells)
  if (is.null(order)) list() else list(order = order)
}

# All cells as one layer, whatever the layers they come from.
checked_stream <- function(cells, genes, system) {
  stream <- function(add) {
    check <- check_log_normalised(cells, system)
    stream_blocks(cells, genes, function(layer, block) add(0L, block), check$block)
    check$done()
  }
  structure(stream, room = stored_values(cells))
}

# How many values the layers store; NULL where that is not known without reading them.
stored_values <- function(cells) {
  stored <- lapply(cells$layers, function(layer) if (is(layer$x, "dgCMatrix")) length(layer$x@x))
  if (any(vapply(stored, is.null, NA))) NULL else sum(as.numeric(unlist(stored)))
}

named_embedding <- function(embedding, cells) {
  dimnames(embedding) <- list(cells, paste0("sysvi_", seq_len(ncol(embedding))))
  embedding
}

warn_if_interrupted <- function(model) {
  if (model$status != "interrupted") {
    return(invisible())
  }
  if (!nrow(model$history)) abort("Interrupted before the first epoch was done; nothing was changed.")
  warning(sprintf(
    "Training was interrupted after %d of %d epochs; the embedding is that of the model so far.",
    nrow(model$history), model$train_settings$max_epochs
  ), call. = FALSE)
}
