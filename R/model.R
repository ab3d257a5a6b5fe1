# Trained models as plain data: the bytes of the engine's model file and the contents of
# its header. The file is in the safetensors format: 8 bytes with the length of the
# header, the header as JSON (the engine's description of the model under
# __metadata__$sysvi), then the parameters.

#' Save and load models
#'
#' A model, single or an ensemble, is one file, `model.safetensors`, the same in R and
#' in Python: a model saved in R is loaded in Python with `sysvi.load(folder)`, and the
#' reverse. Saving and loading do not need Python. A loaded model embeds cells with
#' [predict()][predict.SysVIModel].
#'
#' @param object A value of [RunSysVI()] or [TuneSysVI()], or a `SysVIModel`.
#' @param folder Folder of the model; it is created if it does not exist.
#' @param overwrite Whether to replace an existing model. The file is replaced as a
#'   whole, never in part.
#' @param name Name of the reduction or reducedDim whose model to save; `NULL` if
#'   there is only one.
#'
#' @return `SaveSysVI()`: invisibly, the path of the file. `LoadSysVI()`: a
#'   `SysVIModel`, a plain list with `bytes` (the file), `members` (number of models:
#'   1, or more for an ensemble), `genes`, `system_key`, `systems`, `categorical` and
#'   `continuous` (covariates), `history` (a data.frame with the mean of each loss term
#'   per epoch; of an ensemble, that of its first member), `model_settings`,
#'   `train_settings`, `seed`, `versions` and `status` (`"finished"`,
#'   `"stopped_early"` or `"interrupted"`).
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts))
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, max_epochs = 2, verbose = FALSE)
#' folder <- tempfile()
#' SaveSysVI(z, folder)
#' model <- LoadSysVI(folder)
#' model
#' all.equal(predict(model, x, metadata = cells$metadata), z, check.attributes = FALSE)
SaveSysVI <- function(object, folder, overwrite = FALSE, name = NULL) {
  check_string(folder)
  check_bool(overwrite)
  model <- find_model(object, name)
  file <- file.path(folder, model_file)
  if (file.exists(file) && !overwrite) {
    sysvi_abort("{file} exists already: set overwrite = TRUE to replace it.")
  }
  create_folder(folder)
  partial_file <- tempfile(".model-", folder, ".part")
  on.exit(unlink(partial_file))
  writeBin(model$bytes, partial_file)
  if (!file.rename(partial_file, file)) {
    sysvi_abort("{file} cannot be written: check the permissions of the folder.")
  }
  invisible(file)
}

#' @rdname SaveSysVI
#' @export
LoadSysVI <- function(folder) {
  check_string(folder)
  file <- if (dir.exists(folder)) file.path(folder, model_file) else folder
  if (!file.exists(file)) sysvi_abort("There is no saved model at {file}: check the path.")
  read_model(readBin(file, "raw", file.size(file)), file)
}

model_file <- "model.safetensors"

create_folder <- function(folder) {
  if (!dir.exists(folder) && !dir.create(folder, recursive = TRUE, showWarnings = FALSE)) {
    sysvi_abort("The folder {folder} cannot be created: check the path and its permissions.")
  }
}

# The model in the bytes of a model file; `file` is what messages call it.
read_model <- function(bytes, file = "the model") {
  header <- tryCatch(
    {
      size <- sum(as.numeric(bytes[seq_len(8)]) * 256^(0:7))
      text <- rawToChar(bytes[8 + seq_len(size)])
      description <- jsonlite::fromJSON(text, simplifyVector = FALSE)$`__metadata__`$sysvi
      jsonlite::fromJSON(description, simplifyDataFrame = FALSE)
    },
    error = function(e) NULL
  )
  if (!identical(header$format, "sysvi-model")) {
    sysvi_abort("{file} cannot be read as a saved model: it is corrupted or another kind of file.")
  }
  history <- as.data.frame(header$history)
  structure(
    list(
      bytes = bytes, members = max(1L, length(header$members)), genes = header$genes,
      system_key = header$system_key, systems = header$systems,
      categorical = header$categorical, continuous = header$continuous,
      history = cbind(epoch = seq_len(nrow(history)), history),
      model_settings = header$model_settings, train_settings = header$train_settings,
      seed = header$seed, versions = header$versions, status = header$status
    ),
    class = "SysVIModel"
  )
}

#' @export
print.SysVIModel <- function(x, ...) {
  covariates <- c(names(x$categorical), names(x$continuous))
  cat(sprintf(
    "SysVIModel, %s: %s genes; systems %s ('%s'); covariates %s; %d latent dimensions; %s after %d epochs, seed %.0f\n",
    describe_members(x), format(length(x$genes), big.mark = ","), paste(x$systems, collapse = ", "), x$system_key,
    if (length(covariates)) paste(covariates, collapse = ", ") else "none",
    x$model_settings$n_latent, sub("_", " ", x$status), nrow(x$history), x$seed
  ))
  invisible(x)
}

describe_members <- function(model) {
  if (model$members > 1L) sprintf("an ensemble of %d models", model$members) else "a single model"
}

#' Embed cells with a trained model
#'
#' @param object A `SysVIModel`, of [LoadSysVI()] or stored with an embedding.
#' @param newdata Seurat object, SingleCellExperiment or matrix of genes x cells
#'   with log-normalised expression of the model's genes. Its systems and the
#'   categories of its covariates must be known to the model.
#' @param columns Named list of vectors named by cell, for columns of the model
#'   that are not in the metadata of `newdata`.
#' @param device,process,verbose As in [RunSysVI()].
#' @param ... `metadata` for a matrix, `assay` and `layer` for objects, as in
#'   [RunSysVI()].
#'
#' @return Embedding: a matrix of cells x latent dimensions.
#' @export
#' @inherit SaveSysVI examples
predict.SysVIModel <- function(object, newdata, ..., columns = list(), device = "auto",
                               process = c("session", "separate"), verbose = TRUE) {
  process <- rlang::arg_match(process)
  check_string(device)
  check_bool(verbose)
  cells <- describe_cells(newdata, ...)
  absent <- setdiff(object$genes, select_genes(cells))
  if (length(absent)) {
    sysvi_abort(paste(
      "{capitalise(cells$source)} lacks {length(absent)} of the model's {length(object$genes)} genes",
      "({quote_names(absent)}): give expression of all genes of the model."
    ))
  }
  read_model_column <- function(name) {
    read_column(if (is.null(columns[[name]])) name else columns[[name]], name, cells, name)
  }
  categorical <- lapply(c(object$system_key, names(object$categorical)), read_model_column)
  continuous <- lapply(names(object$continuous), read_model_column)
  model_columns <- c(lapply(categorical, as_categorical), lapply(continuous, as_continuous))
  values <- list(
    genes = I(object$genes), cells = I(cells$cells), columns = column_headers(model_columns), device = device
  )
  answer <- call_engine(
    "embed", values, c(column_arrays(model_columns), encode_cell_order(cells), list(model = object$bytes)),
    stream = stream_expression(cells, object$genes, model_columns[[1L]]$values), process = process, verbose = verbose
  )
  name_embedding(answer$arrays$embedding, cells$cells)
}

# The model that is stored with an embedding.
find_model <- function(object, name = NULL) {
  if (inherits(object, "SysVIModel")) {
    return(object)
  }
  pick_result(find_results(object, "sysVI", "SysVIModel"), name, "model", "RunSysVI()")
}

# Everything of a class that is stored with the embeddings of an object, as a list named
# by reduction. `key` is its name in a reduction's Misc() or among the attributes of a
# matrix; the metadata of a SingleCellExperiment are searched as a whole.
find_results <- function(object, key, class) {
  stored <- if (inherits(object, "Seurat")) {
    reductions <- SeuratObject::Reductions(object)
    setNames(lapply(reductions, function(name) SeuratObject::Misc(object[[name]])[[key]]), reductions)
  } else if (is(object, "SingleCellExperiment")) {
    S4Vectors::metadata(object)
  } else {
    list(attr(object, key))
  }
  Filter(function(result) inherits(result, class), stored)
}

# The result called `name`, or the only one. `kind` ("model", "tuning"), `source_call` and
# `argument`, that which gives the name, are for messages.
pick_result <- function(results, name, kind, source_call, argument = "name") {
  if (!is.null(name)) results <- results[intersect(name, names(results))]
  if (length(results) > 1L) {
    sysvi_abort(
      "The object holds {length(results)} {kind}s: choose one with {.arg {argument}} ({quote_names(names(results))})."
    )
  }
  if (!length(results)) sysvi_abort("The object holds no sysVI {kind}: run {source_call} first.")
  results[[1L]]
}
