#' Save a reference that can be shared
#'
#' Saves a model and its labelled cells as one folder: enough to map new cells and to
#' give them labels, without any expression. [MapSysVI()] takes the folder, and so
#' does Python (`sysvi.load_reference`), which can also upload it to the Hugging Face
#' hub (`sysvi.upload_reference`).
#'
#' @details
#' The folder has the model (`model.safetensors`), names, labels, systems, batches and
#' embedding of the cells (`cells.h5ad`) and no other column of the metadata, a model
#' card (`README.md`: cells, genes, versions, licence, and how well each label is found
#' by cells of other batches), and `config.json` with checksums, which is written last.
#' Loading executes no code.
#'
#' @param object A value of [RunSysVI()] or [TuneSysVI()]: Seurat object,
#'   SingleCellExperiment or embedding.
#' @param folder Folder of the reference; it is created if it does not exist.
#' @param label Labels: name of a metadata column, or a vector named by cell.
#' @param licence Identifier of the licence under which others may use the reference,
#'   such as `"cc-by-4.0"`, for the model card.
#' @param description What the cells are, for the model card (Markdown).
#' @param overwrite Whether to replace a reference that is in the folder.
#' @param name Name of the reduction or reducedDim with the model; `NULL` if there is
#'   only one.
#' @param metadata Data frame with one row per cell and cell names as row names; for an
#'   embedding. It needs the columns with the systems and batches of the model.
#' @param process,verbose As in [RunSysVI()].
#'
#' @return Invisibly, the path of the folder.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # for an example, any log-normalised values will do
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, members = 1, max_epochs = 2, verbose = FALSE)
#' folder <- tempfile()
#' SaveReferenceSysVI(z, folder, "cell_type", licence = "cc0-1.0", metadata = cells$metadata)
#' list.files(folder)
SaveReferenceSysVI <- function(object, folder, label, licence, description = "", overwrite = FALSE, name = NULL,
                               metadata = NULL, process = c("session", "separate"), verbose = TRUE) {
  process <- rlang::arg_match(process)
  check_string(folder)
  check_string(licence)
  if (!rlang::is_string(description)) sysvi_abort("{.arg description} must be a string.")
  check_bool(overwrite)
  check_bool(verbose)
  reference <- describe_reference(object, label, metadata, name, argument = "name")
  if (is.null(reference$arrays)) sysvi_abort("{.arg object} must be the object that RunSysVI() returned.")
  create_folder(folder)
  values <- list(
    reference = reference$labels_from, folder = normalizePath(folder), licence = licence, description = description,
    overwrite = overwrite, device = "cpu"
  )
  arrays <- c(list(model = reference$model$bytes), reference$arrays)
  call_engine("save_reference", values, arrays, process = process, verbose = verbose)
  invisible(folder)
}
