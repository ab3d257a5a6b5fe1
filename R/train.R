# What RunSysVI() and TuneSysVI() have in common: they describe genes, columns and
# settings once, and train_in_engine() passes them to the engine.

# Genes to train on: list(names, selection). `selection` is how the engine selects
# variable genes among them, or NULL where they were given by the user.
describe_gene_selection <- function(cells, features, n_top_genes, min_cells) {
  if (is.null(features)) check_whole_number(n_top_genes)
  list(
    names = select_genes(cells, features),
    selection = if (is.null(features)) list(n_top_genes = n_top_genes, min_cells = min_cells)
  )
}

# Settings of the model and of its training by the engine's names: those of `options`,
# the two that are arguments of both functions, and `...`. NULL leaves a setting to the
# engine.
collect_settings <- function(options, max_epochs, n_latent, ...) {
  check_whole_number(max_epochs, null_allowed = TRUE)
  check_whole_number(n_latent)
  of_data <- c("pseudoinputs_label", "weight_systems", "min_cells") # these concern columns and genes
  in_options <- unclass(options)[setdiff(names(options), of_data)]
  Filter(Negate(is.null), c(list(max_epochs = max_epochs, n_latent = n_latent, ...), in_options))
}

# Run a task that trains, "integrate" or "tune". `task_values` are values of this task
# only. Returns list(embedding, model, answer); the embedding is cells x latent
# dimensions.
train_in_engine <- function(task, cells, columns, genes, settings, task_values, device, process, verbose) {
  check_string(device)
  check_bool(verbose)
  settings$pseudoinputs_label_key <- columns$pseudoinputs_label$name
  all_columns <- list_columns(columns)
  values <- list(
    genes = I(genes$names), cells = I(cells$cells), columns = column_headers(all_columns),
    system = columns$system$name, batch = columns$batch$name, label = columns$label$name,
    categorical = I(column_names(columns$covariates)), continuous = I(column_names(columns$continuous)),
    weight_systems = columns$weight_systems, device = device, choose_genes = genes$selection, settings = settings
  )
  answer <- call_engine(
    task, c(values, task_values), c(column_arrays(all_columns), encode_cell_order(cells)),
    stream = stream_expression(cells, genes$names, columns$system$values), process = process, verbose = verbose
  )
  list(
    embedding = name_embedding(answer$arrays$embedding, cells$cells),
    model = read_model(as.raw(answer$arrays$model)),
    answer = answer
  )
}

name_embedding <- function(embedding, cells) {
  dimnames(embedding) <- list(cells, paste0("sysvi_", seq_len(ncol(embedding))))
  embedding
}
