# What RunSysVI(), IntegrateFilesSysVI() and TuneSysVI() have in common: they describe
# genes, columns and settings once, and train_in_engine() passes them to the engine.

# Arguments of the training of an ensemble, checked, as values of a task. Those of
# `is_missing` that were not given are not passed on: the engine takes them from the
# preset or its equal defaults.
describe_training <- function(options, cycle_weight, max_epochs, n_latent, members, preset, memory, checkpoint, folder,
                              device, seed, verbose, is_missing) {
  check_options(options)
  check_weight(cycle_weight, null_allowed = TRUE)
  check_whole_number(max_epochs, null_allowed = TRUE)
  check_whole_number(n_latent)
  check_whole_number(members)
  check_string(preset, null_allowed = TRUE)
  check_string(memory, null_allowed = TRUE)
  check_string(folder)
  if (!dir.exists(folder)) sysvi_abort("There is no folder {folder} ({.arg folder}): create it, or give another one.")
  check_string(device)
  check_whole_number(seed)
  check_bool(verbose)
  list(
    settings = collect_settings(
      options,
      max_epochs = max_epochs, n_latent = if (!is_missing[["n_latent"]]) n_latent, cycle_weight = cycle_weight
    ),
    members = if (!is_missing[["members"]]) members, preset = preset, memory = memory,
    checkpoint = prepare_checkpoint(checkpoint), device = device, seed = seed
  )
}

# The folder of a checkpoint, created if it is missing; NULL for none.
prepare_checkpoint <- function(checkpoint) {
  if (is.null(checkpoint)) {
    return(NULL)
  }
  check_string(checkpoint)
  create_folder(checkpoint)
  absolute_paths(checkpoint)
}

# The engine may run in another working directory.
absolute_paths <- function(paths) {
  is_absolute <- grepl("^(/|~|[A-Za-z]:)", paths)
  path.expand(ifelse(is_absolute, paths, file.path(getwd(), paths)))
}

# Genes to train on: list(names, selection). `selection` is how the engine selects
# variable genes among them, or NULL where they were given by the user. A `min_cells` of
# NULL is left to the engine.
describe_gene_selection <- function(cells, features, n_top_genes, min_cells) {
  if (is.null(features)) check_whole_number(n_top_genes)
  list(
    names = select_genes(cells, features),
    selection = if (is.null(features)) drop_null(list(n_top_genes = n_top_genes, min_cells = min_cells))
  )
}

# Settings of the model and of its training by the engine's names: those in `options`,
# and arguments in `...`. NULL leaves a setting to the engine.
collect_settings <- function(options, ...) {
  of_data <- c("pseudoinputs_label", "weight_systems", "min_cells") # these concern columns and genes
  drop_null(c(list(...), unclass(options)[setdiff(names(options), of_data)]))
}

drop_null <- function(x) Filter(Negate(is.null), x)

# Run a task that trains, "integrate" or "tune". `training` has its values besides cells,
# genes and columns: settings, device and others. `folder` is that of call_engine().
# Returns list(z, answer): z is the embedding, cells x latent dimensions, with the
# attributes `sysVI` (the model) and, of an ensemble, `support` and `support_by_system`.
train_in_engine <- function(task, cells, columns, genes, training, process, verbose, folder = NULL) {
  training$settings$pseudoinputs_label_key <- columns$pseudoinputs_label$name
  all_columns <- list_columns(columns)
  values <- list(
    genes = I(genes$names), cells = I(cells$cells), columns = column_headers(all_columns),
    system = columns$system$name, batch = columns$batch$name, label = columns$label$name,
    categorical = I(column_names(columns$covariates)), continuous = I(column_names(columns$continuous)),
    weight_systems = columns$weight_systems, choose_genes = genes$selection,
    lacking_genes = if (length(cells$lacking_genes)) lapply(cells$lacking_genes, I)
  )
  answer <- call_engine(
    task, c(values, training), c(column_arrays(all_columns), encode_cell_order(cells)),
    stream = stream_expression(cells, genes$names, columns$system$values), process = process, verbose = verbose,
    folder = folder
  )
  list(z = describe_fit(answer, cells$cells), answer = answer)
}

# The embedding of an answer, with the model and, of an ensemble, the support of the cells.
describe_fit <- function(answer, cells) {
  structure(
    name_embedding(answer$arrays$embedding, cells),
    sysVI = read_model(as.raw(answer$arrays$model)),
    support = read_support(answer, cells),
    support_by_system = read_support_by_system(answer, cells)
  )
}

# Support of each cell: a vector named by cell, or NULL if the answer has none.
read_support <- function(answer, cells) {
  support <- answer$arrays[["cell_support"]]
  if (!is.null(support)) setNames(as.numeric(support), cells)
}

# Support of each cell (row) in each system (column): a data.frame with NA for the
# cell's own system, or NULL if the answer has none.
read_support_by_system <- function(answer, cells) {
  support <- answer$arrays[["support"]]
  if (!is.null(support)) {
    as.data.frame(matrix(nan_to_na(support), length(cells), dimnames = list(cells, answer$values$systems)))
  }
}

name_embedding <- function(embedding, cells) {
  dimnames(embedding) <- list(cells, paste0("sysvi_", seq_len(ncol(embedding))))
  embedding
}
