#' Integrate systems
#'
#' Trains an ensemble of sysVI models on log-normalised expression and returns one
#' embedding of all cells in which systems and batches are mixed and cell types are
#' preserved. It also tells how far the models agree that a cell has counterparts in
#' another system.
#'
#' @details
#' The *system* is the substantial batch effect (species, organoid and tissue,
#' cells and nuclei, protocol); the *batch* is a weaker one within the systems
#' (sample, donor). If systems are still separated after a training that was long
#' enough, a `cycle_weight` of 100 mixes them more.
#'
#' Raw counts and scaled values are recognised and refused. Layers are not joined
#' and matrices are neither transposed nor converted to dense ones; matrices on
#' disk are read in blocks of cells. The engine holds the values of the selected
#' genes in memory, 8 bytes for each value that is not zero, unless these need more
#' than `memory`.
#'
#' With `memory`, neither R nor the engine ever holds the expression of all cells of a
#' matrix on disk: R writes it into `folder` in blocks of cells, the engine reads it from
#' there in blocks, writes that of the selected genes, and removes the former. During
#' training it reads windows of cells from all over this file. If the selected genes fit
#' into `memory`, they are read into it, and the embedding is that without `memory`, to
#' the bit.
#'
#' Unless `features` are given, the engine selects variable genes within each
#' system (there per batch) and keeps those that are variable in every system.
#' This gene selection matters much for the result: genes that are variable in
#' one system only make integration worse.
#'
#' The models of an ensemble, its members, differ only in their seed. They agree
#' about what the data show and disagree about what a model learned by chance. Their
#' embeddings are therefore combined by principal component analysis. The *support* of a
#' cell, from 0 to 1, is how far the members agree that it has a counterpart in
#' another system: near 1 if all of them have the same cells of that system in its
#' neighbourhood, low if they have different ones or if these are far away. Do not
#' interpret the neighbours from another system of a cell whose support is low, as
#' is expected of a cell type that the other system lacks. A warning tells where many
#' cells have a support below 0.2.
#'
#' Ctrl-C or Esc stops training after the current step; the result is then that
#' of the members that had ended, or of all members so far, with a warning. A second
#' interrupt stops the whole call, and nothing is changed.
#'
#' A warning tells where the embedding leaves a system separated from the others,
#' and what to try. No cell types are needed for it.
#'
#' @param object A Seurat object, a SingleCellExperiment, or a matrix of genes x
#'   cells of any kind: dense, sparse (Matrix), DelayedArray/HDF5Array, or
#'   BPCells.
#' @param system,batch Name of a metadata column, or a vector named by cell. No
#'   values may be missing.
#' @param metadata Data frame with one row per cell and cell names as row names;
#'   for matrices.
#' @param covariates,continuous Further categorical and continuous covariates to
#'   correct for: names of metadata columns, a data frame with cells as row names,
#'   or a vector named by cell.
#' @param features Names of the genes to use; `NULL` selects variable genes.
#' @param n_top_genes Number of variable genes to find in each system.
#' @param cycle_weight Weight of the cycle loss, which sets the strength of
#'   integration: a number, reached by a ramp from a tenth to six tenths of
#'   training, or `c(value, start, end)` with start and end of the ramp as
#'   fractions of training; `NULL` is that of the preset, by default 10.
#' @param max_epochs Number of passes over the cells; `NULL` is that of the preset,
#'   by default 24.
#' @param n_latent Number of latent dimensions of the embedding.
#' @param members Number of models in the ensemble; 1 trains a single model, faster
#'   and without support.
#' @param preset Settings that go together: `"conservative"`, the default, which keeps
#'   cell types of single systems apart (linear start, cycle weight 10, 24 epochs,
#'   8 models); `"mixing"`, which mixes systems more, but sometimes types of single
#'   systems too (cycle weight 30, longer training, 4 models); or `"paper"`, model
#'   and training of the paper, a single model.
#'   Arguments and options that are given take precedence; those that are not given
#'   or `NULL` are left to the preset. A weight that is given as a number takes the
#'   ramp of the preset.
#' @param device `"auto"` (an NVIDIA GPU if there is one), `"cpu"`, `"cuda"`,
#'   `"cuda:1"` or `"mps"`.
#' @param seed Random seed, a whole number. The same seed gives the same
#'   embedding; on a CPU it is identical to the bit with up to three threads, or
#'   with the same larger number of threads.
#' @param process Where the engine runs: `"session"` is this R session,
#'   `"separate"` a process of its own. The result is the same. Use a separate
#'   process where Python and R libraries clash within one process (OpenMP on
#'   macOS), and for data that fill the memory.
#' @param verbose Whether to show messages, progress and the time left.
#' @param options Further settings, see [sysvi_options()].
#' @param lacking_genes For matrices: names of the genes that each system lacks, a list
#'   named by system, as [PrepareSystems()] returns it with `genes = "union"`. Other
#'   objects that it returns hold it.
#' @param checkpoint Folder in which the state of training is kept every two minutes; it is
#'   created if it does not exist. After R was ended, even by a kill, the same call goes on
#'   from there, on a CPU with the same result to the bit. A folder of other data or settings
#'   is refused. Remove the folder when it is not needed any more.
#' @param memory Memory that the engine may take, such as `"4GB"`: expression that needs
#'   more is read from disk during training. `NULL` sets no limit. Memory of R itself is
#'   not included.
#' @param folder Folder in which expression is kept during the call, with `memory` or with
#'   `process = "separate"`; it needs 8 bytes for each value of `object` that is not zero,
#'   and with `memory` as much again for those of the selected genes.
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `covariates` on.
#'
#' @return The object with the embedding: a Seurat object with a reduction, a
#'   SingleCellExperiment with a reducedDim, or, for a matrix, a matrix of cells x
#'   `n_latent`. With it are stored, as plain data that `saveRDS()` keeps:
#'   * the trained model or ensemble (see [LoadSysVI()]), in
#'     `Misc(object[["sysvi"]], "sysVI")`, `metadata(object)[["sysVI"]]` or
#'     `attr(x, "sysVI")`;
#'   * the support of each cell, the highest over the other systems: in the metadata
#'     column `sysvi_support` of a Seurat object (`colData` of a
#'     SingleCellExperiment), or `attr(x, "support")`, named by cell;
#'   * the support in each system, a data.frame of cells x systems with `NA` for a
#'     cell's own system: in `Misc(object[["sysvi"]], "support_by_system")`,
#'     `metadata(object)[["sysVI_support_by_system"]]` or
#'     `attr(x, "support_by_system")`.
#'
#'   The column is that of the last call. If this trained a single model, which has
#'   no support, the column is removed.
#'
#' @section Errors:
#' An error is one sentence that names the object, assay, layer or column and says
#' what to do: for columns that are absent or have missing values, a single
#' system, raw counts or scaled values, cells that differ between layers, genes
#' that are not in the object, or Python that does not start.
#'
#' @references
#' Hrovatin, Moinfar, Zappia, Tejada Lapuerta, Lengerich, Kellis, Theis (2025).
#' Integrating single-cell RNA-seq datasets with substantial batch effects. BMC
#' Genomics 26, 974. \doi{10.1186/s12864-025-12126-3}
#'
#' @seealso [TuneSysVI()] to choose `cycle_weight`, [SysVIIntegration()] for
#'   `Seurat::IntegrateLayers()`, [PrepareSystems()] to join species,
#'   [SaveSysVI()].
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(cells$counts)
#' x@x <- log1p(x@x) # for an example, any log-normalised values will do
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, max_epochs = 2, verbose = FALSE)
#' dim(z)
#' summary(attr(z, "support"))
RunSysVI <- function(object, system, batch = NULL, ...) UseMethod("RunSysVI")

#' @rdname RunSysVI
#' @export
RunSysVI.default <- function(object, system, batch = NULL, metadata = NULL, covariates = NULL, continuous = NULL,
                             features = NULL, n_top_genes = 3000L, cycle_weight = NULL, max_epochs = NULL,
                             n_latent = 15L, members = 8L, preset = NULL, device = "auto", seed = 0L,
                             process = c("session", "separate"), verbose = TRUE, options = sysvi_options(),
                             lacking_genes = NULL, checkpoint = NULL, memory = NULL, folder = tempdir(), ...) {
  rlang::check_dots_empty(error = suggest_options)
  process <- rlang::arg_match(process)
  training <- describe_training(
    options, cycle_weight, max_epochs, n_latent, members, preset, memory, checkpoint, folder, device, seed, verbose,
    is_missing = c(n_latent = missing(n_latent), members = missing(members))
  )
  cells <- describe_cells(object, metadata = metadata)
  if (!is.null(lacking_genes)) cells$lacking_genes <- check_lacking_genes(lacking_genes)
  columns <- describe_columns(
    cells, system, batch,
    covariates = covariates, continuous = continuous, pseudoinputs_label = options$pseudoinputs_label,
    weight_systems = isTRUE(options$weight_systems)
  )
  genes <- describe_gene_selection(cells, features, n_top_genes, options$min_cells)
  uses_files <- process == "separate" || !is.null(memory)
  fit <- train_in_engine(
    "integrate", cells, columns, genes, training, process, verbose,
    folder = if (uses_files) absolute_paths(folder)
  )
  warn_if_interrupted(attr(fit$z, "sysVI"))
  fit$z
}

#' @rdname RunSysVI
#' @param assay Name of the assay with the expression; by default the default
#'   assay of a Seurat object, and `"logcounts"` of a SingleCellExperiment.
#' @param layer Name of the layer with log-normalised expression, or of several;
#'   `"data"` also stands for the layers of a split assay (`"data.human"`,
#'   `"data.mouse"`).
#' @param reduction.name,reduction.key Name of the new reduction, and prefix of
#'   the names of its dimensions.
#' @export
RunSysVI.Seurat <- function(object, system, batch = NULL, ..., assay = NULL, layer = "data",
                            reduction.name = "sysvi", reduction.key = "sysvi_") {
  check_string(reduction.name)
  check_string(reduction.key)
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  cells <- describe_cells(object, assay = assay, layer = layer)
  z <- RunSysVI.default(cells, system, batch, NULL, ...) # NULL: metadata are those of the object
  object <- add_reduction(object, z, reduction.name, assay, reduction.key)
  SeuratObject::LogSeuratCommand(object)
}

#' @rdname RunSysVI
#' @param name Name of the new reducedDim.
#' @export
RunSysVI.SingleCellExperiment <- function(object, system, batch = NULL, ..., assay = "logcounts", name = "sysVI") {
  check_string(name)
  cells <- describe_cells(object, assay = assay)
  z <- RunSysVI.default(cells, system, batch, NULL, ...) # NULL: metadata are those of the object
  add_reduced_dim(object, z, name)
}

check_lacking_genes <- function(lacking_genes) {
  named <- is.list(lacking_genes) && !is.null(names(lacking_genes)) && !any(names(lacking_genes) %in% c("", NA))
  if (!named || !all(vapply(lacking_genes, is.character, NA))) {
    sysvi_abort("{.arg lacking_genes} must be a list of character vectors of gene names, named by system.")
  }
  lacking_genes
}

# An embedding, as the default methods return it, as a Seurat reduction. The model and
# the other attributes go into the reduction's Misc().
as_reduction <- function(z, assay, key) {
  results <- attributes(z)[setdiff(names(attributes(z)), c("dim", "dimnames"))]
  z <- matrix(z, nrow(z), dimnames = list(rownames(z), paste0(key, seq_len(ncol(z)))))
  SeuratObject::CreateDimReducObject(
    embeddings = z, stdev = apply(z, 2L, sd), key = key, assay = assay, misc = results
  )
}

# Add an embedding as a reduction of a Seurat object, and the support of its cells as a
# metadata column. An embedding without support removes the column of an earlier one.
add_reduction <- function(object, z, name, assay, key) {
  object[[name]] <- as_reduction(z, assay, key)
  support <- attr(z, "support")
  if (!is.null(support) || support_column %in% colnames(object[[]])) object[[support_column]] <- support
  object
}

# An embedding as a reducedDim, the support of cells in the object's colData, model and
# other results in its metadata. Assigning NULL removes what is there from an embedding
# that is replaced.
add_reduced_dim <- function(object, z, name) {
  S4Vectors::metadata(object)[[name]] <- attr(z, "sysVI")
  for (result in c("tuning", "support_by_system", "missing_genes")) {
    S4Vectors::metadata(object)[[result_key(name, result)]] <- attr(z, result)
  }
  SummarizedExperiment::colData(object)[[support_column]] <- unname(attr(z, "support"))
  SingleCellExperiment::reducedDim(object, name) <- matrix(z, nrow(z), dimnames = dimnames(z))
  object
}

support_column <- "sysvi_support"

result_key <- function(name, result) paste0(name, "_", result)

warn_if_interrupted <- function(model) {
  if (model$status != "interrupted") {
    return(invisible())
  }
  n_epochs <- nrow(model$history) # of the first member; the others are about as far
  if (!n_epochs) sysvi_abort("Interrupted before the first epoch was complete; nothing was changed.")
  sysvi_warn(paste(
    "Training was interrupted; the embedding is that of {describe_members(model)} after {n_epochs} of",
    "{model$train_settings$max_epochs} epochs."
  ))
}
