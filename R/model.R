# Models as plain data: the bytes of the engine's file and what its header says.
# The file is safetensors: 8 bytes with the header's length, the header as JSON
# (the engine's description under __metadata__$sysvi), the parameters.

#' Save and load models
#'
#' A model is one file, `model.safetensors`, the same in R and Python: load in
#' Python what was saved in R with `sysvi.SysVI.load(folder)`, and the reverse.
#' Python is not needed to save or load. A loaded model embeds cells with
#' [predict()][predict.SysVIModel].
#'
#' @param object What [RunSysVI()] returned, or a `SysVIModel`.
#' @param folder Folder; made if missing.
#' @param overwrite Replace a model that is there. The new file appears whole or
#'   not at all.
#' @param name Name of the reduction or reduced dimension whose model is meant;
#'   `NULL`: the one there is.
#'
#' @return `SaveSysVI()`: invisibly the file's path. `LoadSysVI()`: a
#'   `SysVIModel`, a plain list with `bytes` (the file), `genes`, `system_key`,
#'   `systems`, `categorical` and `continuous` (covariates), `history` (a
#'   data.frame: the mean of each loss term per epoch), `model_settings`,
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
  check_string(folder, "folder")
  check_flag(overwrite, "overwrite")
  model <- model_of(object, name)
  file <- file.path(folder, model_file)
  if (file.exists(file) && !overwrite) abort("%s exists already; overwrite = TRUE replaces it.", file)
  make_folder(folder)
  part <- tempfile(".model-", folder, ".part")
  on.exit(unlink(part))
  writeBin(model$bytes, part)
  if (!file.rename(part, file)) abort("%s cannot be written.", file)
  invisible(file)
}

#' @rdname SaveSysVI
#' @export
LoadSysVI <- function(folder) {
  check_string(folder, "folder")
  file <- if (dir.exists(folder)) file.path(folder, model_file) else folder
  if (!file.exists(file)) abort("There is no saved model at %s.", file)
  read_model(readBin(file, "raw", file.size(file)), file)
}

model_file <- "model.safetensors"

make_folder <- function(folder) {
  if (!dir.exists(folder) && !dir.create(folder, recursive = TRUE, showWarnings = FALSE)) {
    abort("The folder %s cannot be made.", folder)
  }
}

read_model <- function(bytes, file = "the model") {
  header <- tryCatch(
    {
      size <- sum(as.numeric(bytes[seq_len(8)]) * 256^(0:7))
      text <- rawToChar(bytes[8 + seq_len(size)])
      jsonlite::fromJSON(jsonlite::fromJSON(text, simplifyVector = FALSE)$`__metadata__`$sysvi)
    },
    error = function(e) NULL
  )
  if (!identical(header$format, "sysvi-model")) {
    abort("%s cannot be read as a saved model: it is damaged or another kind of file.", file)
  }
  history <- as.data.frame(header$history)
  structure(
    list(
      bytes = bytes, genes = header$genes, system_key = header$system_key, systems = header$systems,
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
    "SysVIModel: %s genes; systems %s ('%s'); covariates %s; %d latent dimensions; %s after %d epochs, seed %.0f\n",
    format(length(x$genes), big.mark = ","), paste(x$systems, collapse = ", "), x$system_key,
    if (length(covariates)) paste(covariates, collapse = ", ") else "none",
    x$model_settings$n_latent, sub("_", " ", x$status), nrow(x$history), x$seed
  ))
  invisible(x)
}

#' Embed cells with a trained model
#'
#' @param object A `SysVIModel`, from [LoadSysVI()] or beside an embedding.
#' @param newdata Seurat object, SingleCellExperiment or matrix of genes x cells,
#'   log-normalised, with the model's genes and no systems or categories that
#'   the model does not know.
#' @param columns Named list of vectors named by cell, for columns of the model
#'   that the metadata of `newdata` lack.
#' @param device,process,verbose As in [RunSysVI()].
#' @param ... `metadata` for a matrix, `assay` and `layer` for objects, as in
#'   [RunSysVI()].
#'
#' @return Matrix, cells x latent dimensions.
#' @export
#' @inherit SaveSysVI examples
predict.SysVIModel <- function(object, newdata, ..., columns = list(), device = "auto",
                               process = c("session", "separate"), verbose = TRUE) {
  process <- one_of(process, c("session", "separate"), "process")
  cells <- cells_of(newdata, ..., .of = "predict.SysVIModel")
  lost <- setdiff(object$genes, genes_of(cells))
  if (length(lost)) {
    abort("%s lacks %d of the model's %d genes (%s).", sentence(cells$where), length(lost), length(object$genes),
          quoted(lost))
  }
  find <- function(name) one_column(if (is.null(columns[[name]])) name else columns[[name]], name, cells, name)
  effects <- c(
    lapply(c(object$system_key, names(object$categorical)), function(name) categorical_column(find(name))),
    lapply(names(object$continuous), function(name) continuous_column(find(name)))
  )
  values <- list(
    genes = I(object$genes), cells = I(cells$cells), columns = column_values(effects), device = device
  )
  answer <- call_engine(
    "embed", values, c(column_arrays(effects), order_array(cells), list(model = object$bytes)),
    stream = checked_stream(cells, object$genes, effects[[1L]]$values), process = process, verbose = verbose
  )
  named_embedding(answer$arrays$embedding, cells$cells)
}

# The model beside an embedding.
model_of <- function(object, name = NULL) {
  if (inherits(object, "SysVIModel")) {
    return(object)
  }
  the_one(beside(object, "sysVI", "SysVIModel"), name, "model", "RunSysVI()")
}

# What lies beside the embeddings of an object, of a class, by their names: `key`
# is its place in a reduction's Misc() or among the attributes.
beside <- function(object, key, class) {
  found <- if (inherits(object, "Seurat")) {
    reductions <- SeuratObject::Reductions(object)
    setNames(lapply(reductions, function(name) SeuratObject::Misc(object[[name]])[[key]]), reductions)
  } else if (is(object, "SingleCellExperiment")) {
    S4Vectors::metadata(object)
  } else {
    list(attr(object, key))
  }
  Filter(function(one) inherits(one, class), found)
}

# The one that was asked for, or the only one.
the_one <- function(found, name, what, made_by) {
  if (!is.null(name)) found <- found[intersect(name, names(found))]
  if (length(found) > 1L) {
    abort("object holds %d %ss: choose one with name = (%s).", length(found), what, quoted(names(found)))
  }
  if (!length(found)) abort("object holds no sysVI %s: run %s first.", what, made_by)
  found[[1L]]
}
