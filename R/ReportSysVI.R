#' Report on an integration
#'
#' Writes one HTML page about an integration that opens in any browser without a
#' network, and can be mailed: findings in plain words with what to do, the cells
#' before and after (interactive; as pictures where scripts are off), metrics, cell
#' types, agreement of the models, losses, numbers of genes and cells, settings and
#' versions, and the code that makes it again.
#'
#' @details
#' Cells before the integration are the reduction `pca` or `PCA`, or 50 principal
#' components of the expression. Expression is read only for these and, with
#' `label`, for the metric Moran.
#'
#' The page holds the values of the chosen columns of every cell that it shows, but
#' neither expression nor names of cells. Drawing needs the Python packages jinja2
#' and plotly, which [sysvi_install()] installs.
#'
#' @param object A Seurat object, SingleCellExperiment or embedding with the result
#'   of [RunSysVI()] or [TuneSysVI()].
#' @param file File to write, usually `.html`.
#' @param label Cell types, for the metrics and tables that need them: name of a
#'   metadata column, or a vector named by cell. `NULL` leaves these out.
#' @param system,batch Systems and batches of the cells: name of a metadata column,
#'   or a vector named by cell; by default the columns that have the names of those
#'   of the model.
#' @param colors Names of metadata columns by which cells can be coloured, besides
#'   systems, batches, covariates, cell types and support. `NULL`: all of numbers and
#'   of few categories, up to 20 in all; `character()`: no others.
#' @param metadata Data frame with one row per cell and cell names as row names; for
#'   an embedding.
#' @param expression Log-normalised matrix of genes x cells of any kind, or `NULL`;
#'   for an embedding.
#' @param max_cells Number of cells that are drawn and measured; of more, a random
#'   sample that keeps the proportions of systems and labels.
#' @param overwrite Whether to replace a file.
#' @param device Device of the metrics: `"auto"`, `"cpu"` or `"cuda"`.
#' @param seed Random seed of the sample, of the UMAPs and of the metrics. The same
#'   seed gives the same page.
#' @param process,verbose As in [RunSysVI()].
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `system` on.
#'
#' @return Invisibly, the path of the file.
#'
#' @seealso [EvaluateIntegration()] for the metrics as a table.
#' @export
#' @examplesIf sysvi_available() && reticulate::py_module_available("plotly")
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # for an example, any log-normalised values will do
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, members = 2, max_epochs = 2, verbose = FALSE)
#' file <- tempfile(fileext = ".html")
#' ReportSysVI(z, file, "cell_type", metadata = cells$metadata, expression = x, verbose = FALSE)
#' file.exists(file)
ReportSysVI <- function(object, file, label = NULL, ...) UseMethod("ReportSysVI")

#' @rdname ReportSysVI
#' @export
ReportSysVI.default <- function(object, file, label = NULL, system = NULL, batch = NULL, colors = NULL,
                                metadata = NULL, expression = NULL, max_cells = 20000L, overwrite = FALSE,
                                device = "auto", seed = 0L, process = c("session", "separate"), verbose = TRUE,
                                ...) {
  rlang::check_dots_empty(call = NULL)
  process <- rlang::arg_match(process)
  check_string(file)
  check_whole_number(max_cells)
  check_bool(overwrite)
  check_string(device)
  check_whole_number(seed)
  check_bool(verbose)
  integrated <- describe_integrated(object, metadata, expression)
  described <- integrated$embeddings
  columns <- describe_report_columns(described, integrated$model, system, batch, label, colors)
  pca <- setdiff(find_pca(names(described$embeddings)), described$measured)
  support <- integrated$support
  values <- list(
    genes = NULL, cells = I(described$cells), columns = column_headers(columns$all), embedding = described$measured,
    before = if (length(pca)) match(pca, names(described$embeddings)) - 1L,
    support_systems = if (!is.null(support)) I(colnames(support)), label = columns$label,
    colors = if (!is.null(colors)) I(as.character(colors)), file = absolute_path(file), max_cells = max_cells,
    overwrite = overwrite, device = device, seed = seed
  )
  arrays <- c(
    column_arrays(columns$all), list(model = integrated$model$bytes),
    setNames(described$embeddings, sprintf("embedding%d", seq_along(described$embeddings) - 1L))
  )
  if (!is.null(support)) {
    arrays$support <- as.matrix(support[match(described$cells, rownames(support)), , drop = FALSE])
    dimnames(arrays$support) <- NULL
  }
  stream <- NULL
  expression <- if (needs_expression("default", label, pca)) described$read_expression()
  if (!is.null(expression)) {
    expression <- restrict_to_cells(expression, described$cells)
    genes <- select_genes(expression)
    values$genes <- I(genes)
    arrays <- c(arrays, encode_cell_order(expression))
    stream <- stream_expression(expression, genes)
  }
  call_engine("report", values, arrays, stream = stream, process = process, verbose = verbose)
  invisible(file)
}

#' @rdname ReportSysVI
#' @param name Name of the reduction or reducedDim with the embedding; `NULL` if there
#'   is only one with a model.
#' @param assay Name of the assay with the expression; by default the default assay of
#'   a Seurat object, and `"logcounts"` of a SingleCellExperiment, where `NULL` means no
#'   expression.
#' @param layer Name of the layer with log-normalised expression, or of several, as in
#'   [RunSysVI()]; `NULL` for no expression.
#' @export
ReportSysVI.Seurat <- function(object, file, label = NULL, ..., name = NULL, assay = NULL, layer = "data") {
  integrated <- new_integrated(
    object, name, SeuratObject::Reductions(object),
    read_embedding = function(name) SeuratObject::Embeddings(object, reduction = name), metadata = object[[]],
    read_expression = function() if (!is.null(layer)) describe_cells(object, assay = assay, layer = layer),
    read_support = function(name) SeuratObject::Misc(object[[name]])$support_by_system
  )
  ReportSysVI.default(integrated, file, label, ...)
}

#' @rdname ReportSysVI
#' @export
ReportSysVI.SingleCellExperiment <- function(object, file, label = NULL, ..., name = NULL, assay = "logcounts") {
  integrated <- new_integrated(
    object, name, SingleCellExperiment::reducedDimNames(object),
    read_embedding = function(name) SingleCellExperiment::reducedDim(object, name),
    metadata = as.data.frame(SummarizedExperiment::colData(object), optional = TRUE),
    read_expression = function() if (!is.null(assay)) describe_cells(object, assay = assay),
    read_support = function(name) S4Vectors::metadata(object)[[result_key(name, "support_by_system")]]
  )
  ReportSysVI.default(integrated, file, label, ...)
}

# An integrated object, described alike for all classes: a list of class
# "sysvi_integrated" with `embeddings` (see describe_embeddings(); the measured one is
# that of the model), `model`, and `support` (a data.frame of cells x systems, or NULL).
describe_integrated <- function(object, metadata, expression) {
  if (inherits(object, "sysvi_integrated")) {
    if (!is.null(metadata) || !is.null(expression)) {
      sysvi_abort("{.arg metadata} and {.arg expression} are for embeddings only: add them to the object itself.")
    }
    return(object)
  }
  model <- find_model(object)
  embeddings <- new_embeddings(
    list(sysvi = object), "sysvi", metadata,
    read_expression = function() if (!is.null(expression)) describe_cells(expression)
  )
  structure(
    list(embeddings = embeddings, model = model, support = attr(object, "support_by_system")),
    class = "sysvi_integrated"
  )
}

new_integrated <- function(object, name, available, read_embedding, metadata, read_expression, read_support) {
  models <- find_results(object, "sysVI", "SysVIModel")
  model <- pick_result(models, name, "model", "RunSysVI()")
  if (is.null(name)) name <- names(models)
  embeddings <- describe_reductions(name, available, read_embedding, metadata, read_expression, pca_optional = FALSE)
  structure(list(embeddings = embeddings, model = model, support = read_support(name)), class = "sysvi_integrated")
}

# Columns of a report: list(all, label), `all` with those of the model, the labels and
# those that can colour the cells, and `label` the name of the labels or NULL.
describe_report_columns <- function(described, model, system, batch, label, colors) {
  columns <- describe_query_columns(described, model, system, batch)
  if (!is.null(label)) {
    label <- as_categorical(read_column(label, "label", described, complete = FALSE))
    columns <- c(Filter(function(column) column$name != label$name, columns), list(label))
  }
  absent <- setdiff(colors, colnames(described$metadata))
  if (length(absent)) {
    sysvi_abort(paste(
      "{.arg colors} names {quote_names(absent)}, which is not a column of the metadata: choose some of",
      "{quote_names(colnames(described$metadata), 20L)}."
    ))
  }
  wanted <- if (is.null(colors)) colnames(described$metadata) else colors
  for (name in setdiff(wanted, c(column_names(columns), support_column))) {
    values <- described$metadata[[name]]
    column <- list(name = name, values = values)
    if (is.numeric(values)) {
      columns <- c(columns, list(as_continuous(column)))
    } else if (is.atomic(values) && (!is.null(colors) || length(unique(values)) <= max_categories)) {
      columns <- c(columns, list(as_categorical(column)))
    }
  }
  list(all = columns, label = label$name)
}

max_categories <- 60L # of a column that a report offers by itself, as in the engine

# A path that means the same in another process.
absolute_path <- function(file) {
  file.path(normalizePath(dirname(path.expand(file)), mustWork = FALSE), basename(file))
}
