#' Measure an integration
#'
#' Measures embeddings side by side: whether systems are mixed, biology is kept,
#' and structure within cell types is kept. All metrics are in \[0, 1\] or close
#' to it; higher is better throughout.
#'
#' @details
#' Mixing: iLISI, CiLISI, BRAS, graph connectivity, PCR comparison. Biology:
#' cLISI, NMI, ARI, Jaccard, label silhouette, isolated labels. Within types:
#' Moran, whether genes that vary smoothly over the cells of one type and sample
#' still do. What each number means is in the table's column `convention`. Scores
#' are the means of the metrics of a group that count; the total is 0.6
#' biological preservation + 0.4 batch correction.
#'
#' Without `label` only what needs no cell types is measured, without `batch` not
#' the mixing of batches, without expression neither Moran nor, where there is no
#' PCA, PCR comparison.
#'
#' Expression is read only where a metric needs it, and then as [RunSysVI()] does:
#' log-normalised values, of which the engine takes the genes variable in every
#' system. PCR comparison compares with the reduction `X_pca`, `pca` or `PCA`, or
#' with 50 components of the expression where there is none.
#'
#' @param object A Seurat object, a SingleCellExperiment, or a named list of
#'   embeddings: matrices of cells x dimensions with cell names as row names.
#' @param system,batch Names of columns of the metadata, or vectors named by
#'   cell. No values may be missing.
#' @param label Cell types, the same way. Cells whose type is missing, empty or
#'   called `"unknown"`, `"unassigned"` or the like take part only in what needs
#'   no types.
#' @param metadata Data frame with one row a cell, row names the cells' names.
#' @param expression Log-normalised matrix of genes x cells of any kind, or
#'   `NULL`.
#' @param features Genes for the metrics that need expression; `NULL`: variable
#'   genes are chosen.
#' @param metrics `"default"`, `"all"` (kBET and the ten resolutions of Leiden
#'   too), or names of metrics.
#' @param standardised Also measure each embedding with all dimensions scaled to
#'   unit variance: mixing that is gone there came from shrinking dimensions.
#' @param min_cells Fewest cells of a sample x type group for Moran.
#' @param max_cells Measure a random sample of this many cells, as large a share
#'   of each system and label as of all; `NULL`: all cells.
#' @param device `"auto"` (an NVIDIA card if there is one), `"cpu"` or `"cuda"`.
#' @param seed Whole number: of clustering, of approximate neighbours (above
#'   200,000 cells) and of the sample of cells.
#' @param process,verbose As in [RunSysVI()].
#' @param x What `EvaluateIntegration()` returned.
#' @param row.names,optional Not used.
#' @param ... For the methods, the arguments of the default method from
#'   `features` on.
#'
#' @return List of class `SysVIEvaluation`, plain data throughout:
#'   * `table`: data frame with a row a metric and a row an aggregated score:
#'     `metric`, `group`, one column an embedding, `in_score` (whether the metric
#'     counts in the scores), `convention`. `NA` is what could not be measured.
#'   * `per_label`: data frame with `embedding`, `metric`, `by` (`"label"` or
#'     `"system"`), `name`, `value`.
#'   * `per_cell`: data frame with cells as row names and columns such as
#'     `"sysvi: iLISI"`; `NA` where a cell was not measured.
#'   * `notes`: what a reader must know, such as metrics left out and why.
#'
#'   `print()` shows the table by group, `as.data.frame()` gives it, `plot()`
#'   returns a ggplot: a row an embedding, the best total on top.
#'
#' @seealso [BatchStrength()] for the question before.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # any log-normalised values will do for an example
#' z <- RunSysVI(x, "system", "batch", metadata = cells$metadata, max_epochs = 2, verbose = FALSE)
#' pca <- prcomp(t(as.matrix(x)), rank. = 10)$x
#' found <- EvaluateIntegration(
#'   list(pca = pca, sysvi = z), "system", "batch", "cell_type",
#'   metadata = cells$metadata, verbose = FALSE
#' )
#' found
#' if (requireNamespace("ggplot2", quietly = TRUE)) plot(found)
EvaluateIntegration <- function(object, system, batch = NULL, label = NULL, ...) UseMethod("EvaluateIntegration")

#' @rdname EvaluateIntegration
#' @export
EvaluateIntegration.default <- function(object, system, batch = NULL, label = NULL, metadata = NULL,
                                        expression = NULL, features = NULL, metrics = "default",
                                        standardised = FALSE, min_cells = 500L, max_cells = NULL, device = "auto",
                                        seed = 0L, process = c("session", "separate"), verbose = TRUE, ...) {
  if (!is.list(object) || is.data.frame(object) || !length(object)) {
    abort(
      "object is a %s; give a Seurat or SingleCellExperiment object or a named list of embeddings.",
      class(object)[1L]
    )
  }
  if (is.null(names(object)) || any(names(object) == "") || anyDuplicated(names(object))) {
    abort("object must name each embedding once: list(pca = ..., sysvi = ...).")
  }
  evaluate_cells(
    object, names(object), metadata, if (!is.null(expression)) cells_of(expression), system, batch, label,
    features, metrics, standardised, min_cells, max_cells, device, seed, process, verbose, ...
  )
}

#' @rdname EvaluateIntegration
#' @param reductions Names of the reductions (reduced dimensions) to measure. Of
#'   the default ones the PCA is left out where there is none.
#' @param assay Assay with the expression: of a Seurat object the default one, of
#'   a SingleCellExperiment `"logcounts"`, or there `NULL` for no expression.
#' @param layer Layer with log-normalised expression, or several, as in
#'   [RunSysVI()]; `NULL` for no expression.
#' @export
EvaluateIntegration.Seurat <- function(object, system, batch = NULL, label = NULL, ...,
                                       reductions = c("pca", "sysvi"), assay = NULL, layer = "data") {
  there <- SeuratObject::Reductions(object)
  reductions <- choose_reductions(reductions, there, by_default = missing(reductions))
  names <- union(reductions, principal_components(there))
  evaluate_cells(
    lapply(setNames(nm = names), function(name) SeuratObject::Embeddings(object, reduction = name)),
    reductions, object[[]], if (!is.null(layer)) cells_of(object, assay = assay, layer = layer),
    system, batch, label, ...
  )
}

#' @rdname EvaluateIntegration
#' @export
EvaluateIntegration.SingleCellExperiment <- function(object, system, batch = NULL, label = NULL, ...,
                                                     reductions = c("PCA", "sysVI"), assay = "logcounts") {
  there <- SingleCellExperiment::reducedDimNames(object)
  reductions <- choose_reductions(reductions, there, by_default = missing(reductions))
  names <- union(reductions, principal_components(there))
  evaluate_cells(
    lapply(setNames(nm = names), function(name) SingleCellExperiment::reducedDim(object, name)),
    reductions, as.data.frame(SummarizedExperiment::colData(object), optional = TRUE),
    if (!is.null(assay)) cells_of(object, assay = assay), system, batch, label, ...
  )
}

# The reductions asked for, of those that there are; a PCA that only the default
# asks for may be missing.
choose_reductions <- function(wanted, there, by_default) {
  if (!is.character(wanted) || !length(wanted) || anyNA(wanted)) {
    abort("reductions must name reductions of object (it has %s).", quoted(there, 20L))
  }
  lost <- setdiff(wanted, there)
  if (by_default && wanted[1L] %in% lost) {
    cli::cli_inform("There is no reduction {.val {wanted[1L]}}; it is left out.")
    wanted <- wanted[-1L]
    lost <- lost[-1L]
  }
  if (length(lost)) {
    abort(
      "object has no reduction %s (it has %s): run RunSysVI() first, or name others with `reductions`.",
      quoted(lost), quoted(there, 20L)
    )
  }
  unique(wanted)
}

# Name of the embedding of the cells before integration; none: character().
principal_components <- function(names) utils::head(intersect(c("X_pca", "pca", "PCA"), names), 1L)

# Everything between the doors for data and the engine. `expression`, as
# cells_of() describes it or NULL, is a promise: only looked at where a metric
# needs it.
evaluate_cells <- function(embeddings, measured, metadata, expression, system, batch = NULL, label = NULL,
                           features = NULL, metrics = "default", standardised = FALSE, min_cells = 500L,
                           max_cells = NULL, device = "auto", seed = 0L, process = c("session", "separate"),
                           verbose = TRUE, ...) {
  no_dots(..., .of = "EvaluateIntegration", .rarer = "")
  process <- one_of(process, c("session", "separate"), "process")
  check_flag(standardised, "standardised")
  check_flag(verbose, "verbose")
  check_string(device, "device")
  check_given(min_cells = min_cells, seed = seed)
  check_given(max_cells = max_cells, .or_null = TRUE)
  if (!is.character(metrics) || anyNA(metrics)) abort("metrics must be \"default\", \"all\" or names of metrics.")
  ids <- rownames(embeddings[[measured[1L]]])
  whole <- vapply(embeddings, function(embedding) all(ids %in% rownames(embedding)), NA)
  embeddings <- embeddings[whole | names(embeddings) %in% measured] # a PCA of other cells is of no use
  embeddings <- Map(embedding_in_order, embeddings, names(embeddings), list(ids))
  cells <- list(cells = ids, metadata = metadata_of(ids, metadata))
  effects <- grouping_columns(system, batch, label, cells, complete_label = FALSE)
  before <- principal_components(names(embeddings))
  values <- list(
    genes = NULL, cells = I(ids), columns = column_values(unname(effects)),
    system = effects$system$name, batch = effects$batch$name, label = effects$label$name,
    embeddings = I(names(embeddings)), measured = I(measured), before = if (length(before)) before,
    choose_genes = is.null(features), device = device, seed = seed,
    settings = list(
      metrics = if (metrics[1L] %in% c("default", "all")) metrics[1L] else I(metrics),
      standardised = standardised, min_cells = min_cells, max_cells = max_cells
    )
  )
  arrays <- c(
    column_arrays(unname(effects)),
    setNames(embeddings, sprintf("embedding%d", seq_along(embeddings) - 1L))
  )
  stream <- NULL
  if (needs_expression(metrics, label, before) && !is.null(expression)) {
    expression <- for_cells(expression, ids)
    genes <- genes_of(expression, features)
    values$genes <- I(genes)
    arrays <- c(arrays, order_array(expression))
    stream <- checked_stream(expression, genes, effects$system$values)
  }
  answer <- call_engine("evaluate", values, arrays, stream = stream, process = process, verbose = verbose)
  per_cell <- as.data.frame(missing_as_na(answer$arrays$per_cell))
  dimnames(per_cell) <- list(ids[as.integer(answer$arrays$rows) + 1L], as.character(answer$values$per_cell))
  structure(
    list(
      table = read_table(answer$values$table, answer$arrays$table),
      per_label = read_table(answer$values$per_label, answer$arrays$per_label),
      per_cell = per_cell,
      notes = as.character(answer$values$notes)
    ),
    class = "SysVIEvaluation"
  )
}

# An embedding's coordinates for these cells, without names.
embedding_in_order <- function(embedding, name, cells) {
  embedding <- as.matrix(embedding)
  if (!is.numeric(embedding)) abort("Embedding '%s' holds no numbers.", name)
  check_names(rownames(embedding), sprintf("Embedding '%s'", name), "cell", "row")
  lost <- setdiff(cells, rownames(embedding))
  if (length(lost)) {
    abort(
      "Embedding '%s' lacks %d of the %d cells of the first one (%s): evaluate embeddings of the same cells.",
      name, length(lost), length(cells), quoted(lost, 3L)
    )
  }
  embedding <- unname(embedding[match(cells, rownames(embedding)), , drop = FALSE])
  storage.mode(embedding) <- "double"
  embedding
}

# System, batch and label, as far as given, named so.
grouping_columns <- function(system, batch, label, cells, complete_label) {
  effects <- list(
    system = one_column(system, "system", cells),
    batch = if (!is.null(batch)) one_column(batch, "batch", cells),
    label = if (!is.null(label)) one_column(label, "label", cells, complete = complete_label)
  )
  effects <- lapply(Filter(Negate(is.null), effects), categorical_column)
  check_named_once(effects, "label")
  check_systems(effects$system$values, effects$system$name)
  effects
}

needs_expression <- function(metrics, label, before) {
  asked <- function(metric) any(c("default", "all", metric) %in% metrics)
  (asked("Moran") && !is.null(label)) || (asked("PCR comparison") && !length(before))
}

# Expression of these cells only, in their order.
for_cells <- function(expression, cells) {
  lost <- setdiff(cells, expression$cells)
  if (length(lost)) {
    abort(
      "%s lacks %d of the %d cells of the embeddings (%s).",
      sentence(expression$where), length(lost), length(cells), quoted(lost, 3L)
    )
  }
  expression$cells <- cells
  expression
}

# A table as the engine hands it over: columns of text or flags as values, the
# others as an array.
read_table <- function(described, numbers) {
  texts <- lapply(described$texts, function(text) if (length(text)) text else character())
  numeric <- setdiff(described$order, names(texts))
  numbers <- matrix(missing_as_na(numbers), ncol = length(numeric), dimnames = list(NULL, numeric))
  columns <- lapply(setNames(nm = described$order), function(name) {
    if (name %in% numeric) unname(numbers[, name]) else texts[[name]]
  })
  as.data.frame(columns, optional = TRUE)
}

missing_as_na <- function(numbers) {
  numbers[is.nan(numbers)] <- NA
  numbers
}

reductions_of <- function(table) setdiff(colnames(table), c("metric", "group", "in_score", "convention"))

# "batch correction" -> "Batch correction"
group_title <- function(group) paste0(sentence(group), ifelse(group == "aggregate", " scores", ""))

counts_not <- function(table) !table$in_score & table$group != "aggregate"

#' @export
print.SysVIEvaluation <- function(x, ...) {
  table <- x$table
  reductions <- reductions_of(table)
  widths <- pmax(nchar(reductions), 7L) + 2L
  left <- max(nchar(table$metric), 24L) + 4L
  row <- function(first, values) {
    cat(sprintf("%-*s", left, first), sprintf("%*s", widths, values), "\n", sep = "")
  }
  row("", reductions)
  for (group in unique(table$group)) {
    cat(group_title(group), "\n", sep = "")
    for (i in which(table$group == group)) {
      scores <- unlist(table[i, reductions])
      row(
        paste0("  ", table$metric[i], if (counts_not(table)[i]) " *"),
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
  need_package("ggplot2", "plot()")
  scores <- tidy_scores(x$table)
  if (!nrow(scores)) abort("There is no score that could be drawn.")
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
      plot.margin = ggplot2::margin(5, 60, 5, 5) # for the last slanted name
    )
}

# A row a score that was measured: metric (with a star if it does not count),
# its column among those of its group, reduction and its row, value, what is
# shown. The best total has the highest row.
tidy_scores <- function(table) {
  reductions <- reductions_of(table)
  table <- table[rowSums(!is.na(table[reductions])) > 0, ]
  total <- unlist(table[table$metric == "Total", reductions])
  if (length(total)) reductions <- reductions[order(total, decreasing = TRUE)]
  name <- paste0(table$metric, ifelse(counts_not(table), " *", ""))
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

utils::globalVariables(".data") # of ggplot2::aes()
