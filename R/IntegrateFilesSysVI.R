#' Integrate cells in files that R does not load
#'
#' Trains an ensemble of sysVI models on the cells of h5ad files and zarr stores, and
#' returns their embedding. The engine reads the files; their expression is never in
#' R, and with `memory` not in the engine as a whole either.
#'
#' @details
#' The files are joined on the genes that all have, and prepared as by [PrepareSystems()]
#' with the choice of variable genes of [RunSysVI()], into one file, whose cells are in
#' random order. A single file that `sysvi prepare` of the command line or
#' `sysvi.prepare()` of Python has written is read as it is.
#'
#' Everything else (ensemble, support, interrupts, warnings) is as in [RunSysVI()].
#'
#' @param files Paths of h5ad files and zarr stores (version 2 or 3), all with counts or
#'   all log-normalised.
#' @param system,batch,covariates,continuous Names of columns of `obs` in the files: one
#'   of the systems, one of the batches, and any number of further categorical and
#'   continuous covariates.
#' @param system_of_file Systems of the files that have no such column, named by the
#'   paths of the files or patterns of them: `c("mouse/*" = "mouse")`.
#' @param orthologs For systems of other species the path of a table of orthologues,
#'   named by system: `c(mouse = "human_mouse.tsv")`. The genes of their files are renamed.
#' @param layer Layer of the files with the expression; `NULL` is `X`.
#' @param memory Memory that the engine may take, such as `"4GB"`: prepared cells that
#'   need more are read from disk during training. `NULL` sets no limit.
#' @param folder Folder in which the prepared cells are kept during the call; it needs
#'   about 8 bytes for each value of the variable genes that is not zero.
#' @param checkpoint,n_top_genes,cycle_weight,max_epochs,n_latent,members As in
#'   [RunSysVI()].
#' @param preset,device,seed,process,verbose,options As in [RunSysVI()].
#'
#' @return A matrix of cells x `n_latent`, the embedding, with the attributes `sysVI` (the
#'   model), `support` and `support_by_system` as [RunSysVI()] returns them for a matrix,
#'   and `metadata`, a data.frame with the columns of system, batch and covariates. Cells
#'   are in the order of the prepared file, and their names are the row names. If a name
#'   occurs in two files, all names have the prefix `<file>_`.
#'
#' @seealso [RunSysVI()] for objects in R.
#' @export
#' @examples
#' \dontrun{
#' z <- IntegrateFilesSysVI(
#'   c("human.h5ad", "mouse.h5ad"), "species", "donor",
#'   system_of_file = c("human.h5ad" = "human", "mouse.h5ad" = "mouse"),
#'   orthologs = c(mouse = "human_mouse.tsv"), memory = "4GB"
#' )
#' table(attr(z, "metadata")$species)
#' }
IntegrateFilesSysVI <- function(files, system, batch = NULL, covariates = NULL, continuous = NULL,
                                system_of_file = NULL, orthologs = NULL, layer = NULL, n_top_genes = 3000L,
                                memory = NULL, checkpoint = NULL, folder = tempdir(), cycle_weight = NULL,
                                max_epochs = NULL, n_latent = 15L, members = 8L, preset = NULL, device = "auto",
                                seed = 0L, process = c("session", "separate"), verbose = TRUE,
                                options = sysvi_options()) {
  process <- rlang::arg_match(process)
  check_strings(files)
  if (!length(files)) sysvi_abort("{.arg files} is empty: give the paths of h5ad files or zarr stores.")
  check_string(system)
  check_string(batch, null_allowed = TRUE)
  check_strings(covariates, null_allowed = TRUE)
  check_strings(continuous, null_allowed = TRUE)
  check_named_strings(system_of_file)
  check_named_strings(orthologs)
  check_string(layer, null_allowed = TRUE)
  check_whole_number(n_top_genes)
  training <- describe_training(
    options, cycle_weight, max_epochs, n_latent, members, preset, memory, checkpoint, folder, device, seed, verbose,
    is_missing = c(n_latent = missing(n_latent), members = missing(members))
  )
  training$settings$pseudoinputs_label_key <- options$pseudoinputs_label
  values <- list(
    files = I(absolute_paths(files)), system = system, batch = batch, layer = layer,
    categorical = I(as.character(covariates)), continuous = I(as.character(continuous)),
    weight_systems = isTRUE(options$weight_systems),
    # the engine matches patterns with absolute paths
    system_of_file = if (length(system_of_file)) {
      as.list(setNames(system_of_file, absolute_paths(names(system_of_file))))
    },
    orthologs = if (length(orthologs)) as.list(setNames(absolute_paths(orthologs), names(orthologs))),
    choose_genes = drop_null(list(n_top_genes = n_top_genes, min_cells = options$min_cells)),
    folder = absolute_paths(folder)
  )
  answer <- call_engine("integrate_files", c(values, training), process = process, verbose = verbose)
  cells <- as.character(answer$values$cells)
  z <- describe_fit(answer, cells)
  metadata <- decode_table(answer$values$metadata, answer$arrays$metadata)
  rownames(metadata) <- cells
  attr(z, "metadata") <- metadata
  warn_if_interrupted(attr(z, "sysVI"))
  z
}
