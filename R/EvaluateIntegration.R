#' Measure an integration
#'
#' Measures embeddings of the same cells: whether systems are mixed, whether cell
#' types are preserved, and whether structure within cell types is preserved. All
#' metrics lie in \[0, 1\] or close to it, and higher is better for all of them.
#'
#' @details
#' Batch correction: iLISI, CiLISI, BRAS, graph connectivity, PCR comparison.
#' Biological preservation: cLISI, NMI, ARI, Jaccard, label silhouette, isolated
#' labels. Preservation within cell types: Moran, whether genes that vary smoothly
#' over the cells of one type and sample still do so. The definition of every
#' metric is in the column `convention` of the table. The score of a group is the
#' mean of those of its metrics that count; the total is 0.6 biological
#' preservation + 0.4 batch correction.
#'
#' Without `label`, only metrics that need no cell types are computed; without
#' `batch`, those of the mixing of batches are left out; without expression, Moran
#' is left out, and so is PCR comparison if there is no PCA.
#'
#' Expression is read only if a metric needs it, in the same way as by
#' [RunSysVI()]: log-normalised values, of which the engine selects the genes that
#' are variable in every system. PCR comparison uses the reduction `X_pca`, `pca`
#' or `PCA` as the state before integration, or else 50 principal components of
#' the expression.
#'
#' @param object A Seurat object, a SingleCellExperiment, or a named list of
#'   embeddings: matrices of cells x dimensions with cell names as row names.
#' @param system,batch Names of metadata columns, or vectors named by cell. No
#'   values may be missing.
#' @param label Cell types, given likewise. Unlabelled cells (missing, empty,
#'   `"unknown"`, `"unassigned"` or the like) are left out where a metric needs
#'   cell types.
#' @param metadata Data frame with one row per cell and cell names as row names;
#'   for a list of embeddings.
#' @param expression Log-normalised matrix of genes x cells of any kind, or `NULL`;
#'   for a list of embeddings.
#' @param features Names of the genes for metrics that need expression; `NULL`
#'   selects variable genes.
#' @param metrics `"default"`, `"all"` (also kBET, and Leiden clustering at ten
#'   resolutions), or names of metrics.
#' @param standardised Whether to measure each embedding also with every dimension
#'   scaled to unit variance. If mixing disappears then, it came from dimensions
#'   that had shrunk.
#' @param min_cells Minimum number of cells of a sample and cell type for Moran.
#' @param max_cells Maximum number of cells to measure: a random sample that keeps
#'   the proportions of systems and labels. `NULL` measures all cells.
#' @param device `"auto"` (an NVIDIA GPU if there is one), `"cpu"` or `"cuda"`.
#' @param seed Random seed, a whole number, of clustering, of approximate nearest
#'   neighbours (above 200,000 cells) and of the sample of cells.
#' @param process,verbose As in [RunSysVI()].
#' @param x A value of `EvaluateIntegration()`.
#' @param row.names,optional Not used.
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `features` on.
#'
#' @return A list of class `SysVIEvaluation` that holds plain data only:
#'   * `table`: data frame with one row per metric and per aggregated score:
#'     `metric`, `group`, one column per embedding, `in_score` (whether the metric
#'     counts in the scores) and `convention`. `NA` is a metric that could not be
#'     computed.
#'   * `per_label`: data frame with `embedding`, `metric`, `by` (`"label"` or
#'     `"system"`), `name` and `value`.
#'   * `per_cell`: data frame with cell names as row names and columns such as
#'     `"sysvi: iLISI"`; `NA` where a cell was not measured.
#'   * `notes`: remarks for the reader, such as which metrics are left out and why.
#'
#'   `print()` shows the table by group; `as.data.frame()` returns it; `plot()`
#'   returns a ggplot with one row per embedding, the best total on top.
#'
#' @seealso [BatchStrength()], which tells before an integration whether it is
#'   needed.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # for an example, any log-normalised values will do
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, max_epochs = 2, verbose = FALSE)
#' pca <- prcomp(t(as.matrix(x)), rank. = 10)$x
#' evaluation <- EvaluateIntegration(
#'   list(pca = pca, sysvi = z), "system", "batch", "cell_type",
#'   metadata = cells$metadata, verbose = FALSE
#' )
#' evaluation
#' if (requireNamespace("ggplot2", quietly = TRUE)) plot(evaluation)
EvaluateIntegration <- function(object, system, batch = NULL, label = NULL, ...) UseMethod("EvaluateIntegration")

#' @rdname EvaluateIntegration
#' @export
EvaluateIntegration.default <- function(object, system, batch = NULL, label = NULL, metadata = NULL,
                                        expression = NULL, features = NULL, metrics = "default",
                                        standardised = FALSE, min_cells = 500L, max_cells = NULL, device = "auto",
                                        seed = 0L, process = c("session", "separate"), verbose = TRUE, ...) {
  rlang::check_dots_empty(call = NULL)
  process <- rlang::arg_match(process)
  check_bool(standardised)
  check_bool(verbose)
  check_string(device)
  check_whole_number(min_cells)
  check_whole_number(max_cells, null_allowed = TRUE)
  check_whole_number(seed)
  if (!is.character(metrics) || !length(metrics) || anyNA(metrics)) {
    sysvi_abort("{.arg metrics} must be \"default\", \"all\" or names of metrics.")
  }
  described <- describe_embeddings(object, metadata, expression)
  embeddings <- described$embeddings
  columns <- describe_columns(described, system, batch, label)
  all_columns <- list_columns(columns)
  pca <- find_pca(names(embeddings))
  values <- list(
    genes = NULL, cells = I(described$cells), columns = column_headers(all_columns),
    system = columns$system$name, batch = columns$batch$name, label = columns$label$name,
    embeddings = I(names(embeddings)), measured = I(described$measured), before = if (length(pca)) pca,
    choose_genes = is.null(features), device = device, seed = seed,
    settings = list(
      metrics = if (metrics[1L] %in% c("default", "all")) metrics[1L] else I(metrics),
      standardised = standardised, min_cells = min_cells, max_cells = max_cells
    )
  )
  arrays <- c(
    column_arrays(all_columns),
    setNames(embeddings, sprintf("embedding%d", seq_along(embeddings) - 1L))
  )
  stream <- NULL
  expression <- if (needs_expression(metrics, label, pca)) described$read_expression()
  if (!is.null(expression)) {
    expression <- restrict_to_cells(expression, described$cells)
    genes <- select_genes(expression, features)
    values$genes <- I(genes)
    arrays <- c(arrays, encode_cell_order(expression))
    stream <- stream_expression(expression, genes, columns$system$values)
  }
  answer <- call_engine("evaluate", values, arrays, stream = stream, process = process, verbose = verbose)
  per_cell <- as.data.frame(nan_to_na(answer$arrays$per_cell))
  dimnames(per_cell) <- list(
    described$cells[as.integer(answer$arrays$rows) + 1L], as.character(answer$values$per_cell)
  )
  structure(
    list(
      table = decode_table(answer$values$table, answer$arrays$table),
      per_label = decode_table(answer$values$per_label, answer$arrays$per_label),
      per_cell = per_cell,
      notes = as.character(answer$values$notes)
    ),
    class = "SysVIEvaluation"
  )
}

#' @rdname EvaluateIntegration
#' @param reductions Names of the reductions (or reducedDims) to measure. The PCA of
#'   the default is left out if there is none.
#' @param assay Name of the assay with the expression; by default the default
#'   assay of a Seurat object, and `"logcounts"` of a SingleCellExperiment, where
#'   `NULL` means no expression.
#' @param layer Name of the layer with log-normalised expression, or of several, as
#'   in [RunSysVI()]; `NULL` for no expression.
#' @export
EvaluateIntegration.Seurat <- function(object, system, batch = NULL, label = NULL, ...,
                                       reductions = c("pca", "sysvi"), assay = NULL, layer = "data") {
  described <- describe_reductions(
    reductions, SeuratObject::Reductions(object),
    read_embedding = function(name) SeuratObject::Embeddings(object, reduction = name), metadata = object[[]],
    read_expression = function() if (!is.null(layer)) describe_cells(object, assay = assay, layer = layer),
    pca_optional = missing(reductions)
  )
  EvaluateIntegration.default(described, system, batch, label, NULL, NULL, ...) # metadata, expression: in `described`
}

#' @rdname EvaluateIntegration
#' @export
EvaluateIntegration.SingleCellExperiment <- function(object, system, batch = NULL, label = NULL, ...,
                                                     reductions = c("PCA", "sysVI"), assay = "logcounts") {
  described <- describe_reductions(
    reductions, SingleCellExperiment::reducedDimNames(object),
    read_embedding = function(name) SingleCellExperiment::reducedDim(object, name),
    metadata = as.data.frame(SummarizedExperiment::colData(object), optional = TRUE),
    read_expression = function() if (!is.null(assay)) describe_cells(object, assay = assay),
    pca_optional = missing(reductions)
  )
  EvaluateIntegration.default(described, system, batch, label, NULL, NULL, ...) # metadata, expression: in `described`
}

# Embeddings of any object, described alike: a list of class "sysvi_embeddings" with
#   embeddings       named matrices of cells x dimensions, rows in the order of `cells`
#   measured         names of those to measure; another one may be the PCA
#   cells            names of the cells
#   metadata         data.frame with one row per cell
#   read_expression  function() that returns the expression as describe_cells() does, or
#                    NULL; called only if a metric needs expression
describe_embeddings <- function(object, metadata, expression) {
  if (inherits(object, "sysvi_embeddings")) {
    if (!is.null(metadata) || !is.null(expression)) {
      sysvi_abort(
        "{.arg metadata} and {.arg expression} are for lists of embeddings only: add them to the object itself."
      )
    }
    return(object)
  }
  if (!is.list(object) || is.data.frame(object) || !length(object)) {
    sysvi_abort(paste(
      "{.arg object} is a {class(object)[1L]}: give a Seurat or SingleCellExperiment object or a named list of",
      "embeddings."
    ))
  }
  if (is.null(names(object)) || any(names(object) == "") || anyDuplicated(names(object))) {
    sysvi_abort("{.arg object} must name each embedding once: list(pca = ..., sysvi = ...).")
  }
  new_embeddings(
    object, names(object), metadata,
    read_expression = function() if (!is.null(expression)) describe_cells(expression)
  )
}

# The same for the reductions of an object. `available` are the names of all of its
# reductions.
describe_reductions <- function(reductions, available, read_embedding, metadata, read_expression, pca_optional) {
  measured <- choose_reductions(reductions, available, pca_optional)
  names <- union(measured, find_pca(available))
  new_embeddings(lapply(setNames(nm = names), read_embedding), measured, metadata, read_expression)
}

# The reductions to measure. With `pca_optional`, the first may be absent.
choose_reductions <- function(reductions, available, pca_optional) {
  if (!is.character(reductions) || !length(reductions) || anyNA(reductions)) {
    sysvi_abort("{.arg reductions} must name reductions of the object (it has {quote_names(available, 20L)}).")
  }
  if (pca_optional && !reductions[1L] %in% available) {
    cli::cli_inform("The object has no reduction '{reductions[1L]}'; it is left out.")
    reductions <- reductions[-1L]
  }
  absent <- setdiff(reductions, available)
  if (length(absent)) {
    sysvi_abort(paste(
      "The object has no reduction {quote_names(absent)} (it has {quote_names(available, 20L)}): run RunSysVI() first,",
      "or name others with {.arg reductions}."
    ))
  }
  unique(reductions)
}

new_embeddings <- function(embeddings, measured, metadata, read_expression) {
  cells <- rownames(embeddings[[measured[1L]]])
  has_all_cells <- vapply(embeddings, function(embedding) all(cells %in% rownames(embedding)), NA)
  embeddings <- embeddings[has_all_cells | names(embeddings) %in% measured] # drops a PCA of other cells
  structure(
    list(
      embeddings = Map(order_embedding, embeddings, names(embeddings), list(cells)), measured = measured,
      cells = cells, metadata = match_metadata(metadata, cells), read_expression = read_expression
    ),
    class = "sysvi_embeddings"
  )
}

# Coordinates of `cells` in their order, without names.
order_embedding <- function(embedding, name, cells) {
  embedding <- as.matrix(embedding)
  if (!is.numeric(embedding)) sysvi_abort("Embedding '{name}' is not numeric.")
  check_unique_names(rownames(embedding), sprintf("Embedding '%s'", name), "cell", "row")
  absent <- setdiff(cells, rownames(embedding))
  if (length(absent)) {
    sysvi_abort(paste(
      "Embedding '{name}' lacks {length(absent)} of the {length(cells)} cells of the first embedding",
      "({quote_names(absent, 3L)}): give embeddings of the same cells."
    ))
  }
  embedding <- unname(embedding[match(cells, rownames(embedding)), , drop = FALSE])
  storage.mode(embedding) <- "double"
  embedding
}

# Name of the principal components of the cells before integration; character() if there
# are none.
find_pca <- function(names) utils::head(intersect(c("X_pca", "pca", "PCA"), names), 1L)

needs_expression <- function(metrics, label, pca) {
  is_wanted <- function(metric) any(c("default", "all", metric) %in% metrics)
  (is_wanted("Moran") && !is.null(label)) || (is_wanted("PCR comparison") && !length(pca))
}

# Expression of these cells only, in their order.
restrict_to_cells <- function(expression, cells) {
  absent <- setdiff(cells, expression$cells)
  if (length(absent)) {
    sysvi_abort(paste(
      "{capitalise(expression$source)} lacks {length(absent)} of the {length(cells)} cells of the embeddings",
      "({quote_names(absent, 3L)}): give expression of the same cells."
    ))
  }
  expression$cells <- cells
  expression
}

embedding_columns <- function(table) setdiff(colnames(table), c("metric", "group", "in_score", "convention"))

# "batch correction" -> "Batch correction"
group_title <- function(group) paste0(capitalise(group), ifelse(group == "aggregate", " scores", ""))

# Metrics that do not count in the scores; they are shown with a star.
is_starred <- function(table) !table$in_score & table$group != "aggregate"

#' @export
print.SysVIEvaluation <- function(x, ...) {
  table <- x$table
  embeddings <- embedding_columns(table)
  widths <- pmax(nchar(embeddings), 7L) + 2L
  name_width <- max(nchar(table$metric), 24L) + 4L
  print_row <- function(name, values) {
    cat(sprintf("%-*s", name_width, name), sprintf("%*s", widths, values), "\n", sep = "")
  }
  print_row("", embeddings)
  for (group in unique(table$group)) {
    cat(group_title(group), "\n", sep = "")
    for (i in which(table$group == group)) {
      scores <- unlist(table[i, embeddings])
      print_row(
        paste0("  ", table$metric[i], if (is_starred(table)[i]) " *"),
        ifelse(is.na(scores), "-", sprintf("%.3f", scores))
      )
    }
  }
  cat("", "Higher is better. * does not count in the scores.", x$notes, sep = "\n")
  invisible(x)
}

#' @rdname EvaluateIntegration
#' @export
as.data.frame.SysVIEvaluation <- function(x, row.names = NULL, optional = FALSE, ...) x$table

#' @rdname EvaluateIntegration
#' @export
plot.SysVIEvaluation <- function(x, ...) {
  rlang::check_installed("ggplot2", "for plot().")
  scores <- tidy_scores(x$table)
  if (!nrow(scores)) sysvi_abort("There is no score to draw: no metric could be computed.")
  dots <- scores[scores$group != "Aggregate scores", ]
  bars <- scores[scores$group == "Aggregate scores", ]
  ggplot2::ggplot(scores, ggplot2::aes(.data$metric, .data$row)) +
    ggplot2::geom_blank() +
    ggplot2::geom_point(ggplot2::aes(size = .data$shown, colour = .data$shown), dots) +
    ggplot2::geom_text(ggplot2::aes(label = .data$text), dots, size = 2.8) +
    ggplot2::geom_rect(
      ggplot2::aes(
        xmin = .data$column - 0.46, xmax = .data$column - 0.46 + 0.92 * .data$shown,
        ymin = .data$row - 0.36, ymax = .data$row + 0.36, fill = .data$shown
      ),
      bars
    ) +
    ggplot2::geom_text(ggplot2::aes(.data$column - 0.4, label = .data$text), bars, size = 2.8, hjust = 0) +
    ggplot2::facet_grid(cols = ggplot2::vars(.data$group), scales = "free_x", space = "free_x") +
    ggplot2::scale_x_discrete(position = "top") +
    ggplot2::scale_y_continuous(
      breaks = seq_along(levels(scores$reduction)), labels = levels(scores$reduction), expand = c(0, 0.6)
    ) +
    ggplot2::scale_size(limits = c(0, 1), range = c(7, 11)) +
    ggplot2::scale_colour_gradientn(colours = c("#c2a5cf", "#ebebeb", "#7fbf7b"), limits = c(0, 1)) +
    ggplot2::scale_fill_gradientn(colours = c("#edf8b1", "#7fcdbb", "#41b6c4"), limits = c(0, 1)) +
    ggplot2::labs(x = NULL, y = NULL, caption = "Higher is better. * does not count in the scores.") +
    ggplot2::theme_minimal() +
    ggplot2::theme(
      axis.text.x.top = ggplot2::element_text(angle = 45, hjust = 0, vjust = 0),
      legend.position = "none", panel.grid.major.x = ggplot2::element_blank(),
      panel.grid.minor = ggplot2::element_blank(), strip.placement = "outside", strip.clip = "off",
      plot.margin = ggplot2::margin(5, 60, 5, 5) # room for the last slanted name
    )
}

# Scores in long form, one row per score that could be computed: `metric` (starred if it
# does not count), `column` within its group, `reduction` and its `row` (the best total
# in the highest one), `value`, `shown` (clipped to [0, 1]) and `text`.
tidy_scores <- function(table) {
  reductions <- embedding_columns(table)
  table <- table[rowSums(!is.na(table[reductions])) > 0, ]
  total <- unlist(table[table$metric == "Total", reductions])
  if (length(total)) reductions <- reductions[order(total, decreasing = TRUE)]
  name <- paste0(table$metric, ifelse(is_starred(table), " *", ""))
  scores <- data.frame(
    metric = factor(name, unique(name)), group = factor(group_title(table$group), unique(group_title(table$group))),
    column = stats::ave(seq_along(name), table$group, FUN = seq_along),
    reduction = factor(rep(reductions, each = nrow(table)), rev(reductions)),
    value = unlist(table[reductions], use.names = FALSE)
  )
  scores$row <- as.integer(scores$reduction)
  scores$shown <- pmin(pmax(scores$value, 0), 1)
  scores$text <- sprintf("%.2f", scores$value)
  scores[!is.na(scores$value), ]
}

utils::globalVariables(".data") # used in ggplot2::aes()
