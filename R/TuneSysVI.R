#' Choose the strength of integration
#'
#' Integrates with several cycle weights, priors and seeds, measures every
#' embedding, chooses one setting, and returns what [RunSysVI()] would return with
#' it, together with the comparison.
#'
#' @details
#' With `label`, the criterion is that of the paper: NMI with the cell types and
#' the ratio of Moran's I are scaled to \[0, 1\] over the runs, and their mean is
#' the biology score; iLISI, scaled likewise, is the batch correction score; the
#' overall score is 0.6 biology + 0.4 batch correction. The setting with the
#' highest mean over its seeds is chosen. Its runs become an ensemble, as the members
#' of [RunSysVI()]; the run with the median score represents them in the tables.
#'
#' Without labels, clusters of cells that are found within each system take the
#' place of cell types. Mixing is then measured only where systems share such a
#' state, so that mixing the states of one system into those of another is not
#' rewarded.
#'
#' Ctrl-C or Esc stops training after the current step; the choice is then made
#' among the runs that have finished, with a warning. Several models train at the
#' same time, with one thread each.
#'
#' @inheritParams RunSysVI
#' @param object As in [RunSysVI()]: a Seurat object, a SingleCellExperiment, or a
#'   matrix of genes x cells of any kind. For `Tuning()`, a value of `TuneSysVI()`.
#' @param label Cell types, if they are known: name of a metadata column, or a
#'   vector named by cell. They serve for measuring only, never for training.
#'   Unlabelled cells (missing, empty, `"unknown"`, `"unassigned"` or the like) are
#'   not counted.
#' @param cycle_weights,kl_weights Weights of the cycle loss and of the KL
#'   divergence to compare, in all combinations. Each is a number, reached by a
#'   ramp as in [RunSysVI()].
#' @param priors Priors to compare, each with every pair of weights: one or more of
#'   `"vamp"`, `"gmm"` and `"standard_normal"` (see [sysvi_options()]). Whether
#'   `"vamp"` or `"standard_normal"` is better depends on the data.
#' @param seeds Number of runs per setting (with seeds 0, 1, ...), or the seeds
#'   themselves: `c(4, 7)`; a single seed is `list(4)`. With one run per setting the
#'   result is a single model, without support.
#' @param folder Folder in which finished runs are stored; it is created if it does
#'   not exist. After an interrupt or a crash the same call continues from there,
#'   and weights or seeds can be added later. `NULL` keeps runs in memory.
#' @param min_cells Minimum number of cells of a sample and cell type for Moran's I.
#' @param max_cells Maximum number of cells to measure: a random sample that keeps
#'   the proportions of systems and labels. All cells are trained on.
#' @param name Name of the new reducedDim. For `Tuning()`, name of the reduction or
#'   reducedDim whose tuning to return; `NULL` if there is only one.
#' @param options Further settings, the same for all runs, see [sysvi_options()].
#' @param ... For Seurat objects and SingleCellExperiments, the arguments of the
#'   default method from `cycle_weights` on, by their names. For `plot()`, not
#'   used.
#'
#' @return `TuneSysVI()`: the object as [RunSysVI()] returns it, with embedding,
#'   model and support of the runs of the chosen setting, and the tuning stored with
#'   them. `Tuning()`: this tuning, from `Misc(object[["sysvi"]], "tuning")`,
#'   `metadata(object)[["sysVI_tuning"]]` or `attr(x, "tuning")`: a list of class
#'   `SysVITuning` that holds plain data only:
#'   * `runs`: data frame with one row per run: `cycle_weight`, `kl_weight`,
#'     `prior`, `seed`, `status`, the measures and their scaled values, `biology`,
#'     `batch`, `overall`, whether its setting is the `chosen` one, and whether it
#'     is the `representative` run of that setting. A run that failed or was
#'     interrupted has no measures.
#'   * `settings`: data frame with one row per setting, the best first: means over
#'     its seeds.
#'   * `cycle_weight`, `kl_weight`, `prior`, `seed`: those of the representative run.
#'   * `mixing`: name of the column with the measure of mixing, `"iLISI"` or
#'     `"shared mixing"`.
#'   * `why`: the reasons for the choice, in two sentences.
#'   * `warnings`: what speaks against the choice, one sentence each, such as
#'     latent dimensions that collapsed or a cell type of one system that was mixed
#'     into another one.
#'
#'   `print()` shows settings, reasons and warnings; `as.data.frame()` returns the
#'   runs; `plot()` returns a ggplot of mixing against biology.
#'
#' @inheritSection RunSysVI Errors
#' @inherit RunSysVI references
#' @seealso [RunSysVI()], and [EvaluateIntegration()] for more metrics.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # for an example, any log-normalised values will do
#' z <- TuneSysVI(
#'   x, "system", "batch", "cell_type",
#'   metadata = cells$metadata, cycle_weights = c(0, 5), seeds = 1, max_epochs = 2, verbose = FALSE
#' )
#' Tuning(z)
#' if (requireNamespace("ggplot2", quietly = TRUE)) plot(Tuning(z))
TuneSysVI <- function(object, system, batch = NULL, label = NULL, ...) UseMethod("TuneSysVI")

# Arguments come after the dots: otherwise `seed` would match `seeds`.
#' @rdname TuneSysVI
#' @export
TuneSysVI.default <- function(object, system, batch = NULL, label = NULL, ..., metadata = NULL,
                              cycle_weights = c(0, 2, 5, 10, 30, 100), kl_weights = 1, priors = "vamp", seeds = 3L,
                              folder = NULL, covariates = NULL, continuous = NULL, features = NULL,
                              n_top_genes = 3000L, max_epochs = NULL, n_latent = 15L, min_cells = 200L,
                              max_cells = 50000L, device = "auto", process = c("session", "separate"),
                              verbose = TRUE, options = sysvi_options()) {
  rlang::check_dots_empty(error = suggest_options)
  process <- rlang::arg_match(process)
  check_distinct_weights(cycle_weights)
  check_distinct_weights(kl_weights)
  check_priors(priors)
  seeds <- list_seeds(seeds)
  check_whole_number(max_epochs, null_allowed = TRUE)
  check_whole_number(n_latent)
  check_whole_number(min_cells)
  check_whole_number(max_cells)
  check_string(device)
  check_bool(verbose)
  check_options(options)
  check_not_in_options(options, c("kl_weight", "prior"))
  if (!is.null(folder)) {
    check_string(folder)
    create_folder(folder)
    folder <- normalizePath(folder) # the engine may run in another working directory
  }
  cells <- describe_cells(object, metadata = metadata)
  columns <- describe_columns(
    cells, system, batch, label, covariates, continuous, options$pseudoinputs_label, isTRUE(options$weight_systems)
  )
  genes <- describe_gene_selection(cells, features, n_top_genes, options$min_cells)
  training <- list(
    settings = collect_settings(options, max_epochs = max_epochs, n_latent = n_latent), device = device,
    folder = folder, compared = list(
      cycle_weights = I(cycle_weights), kl_weights = I(kl_weights), priors = I(priors), seeds = I(seeds),
      min_cells = min_cells, max_cells = max_cells
    )
  )
  fit <- train_in_engine("tune", cells, columns, genes, training, process, verbose)
  tuning <- read_tuning(fit$answer)
  warn_if_runs_are_missing(tuning$runs$status, fit$answer$values$n_missing, folder)
  structure(fit$z, tuning = tuning)
}

#' @rdname TuneSysVI
#' @export
TuneSysVI.Seurat <- function(object, system, batch = NULL, label = NULL, ..., assay = NULL, layer = "data",
                             reduction.name = "sysvi", reduction.key = "sysvi_") {
  check_string(reduction.name)
  check_string(reduction.key)
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  z <- TuneSysVI.default(describe_cells(object, assay = assay, layer = layer), system, batch, label, ...)
  object <- add_reduction(object, z, reduction.name, assay, reduction.key)
  SeuratObject::LogSeuratCommand(object)
}

#' @rdname TuneSysVI
#' @export
TuneSysVI.SingleCellExperiment <- function(object, system, batch = NULL, label = NULL, ..., assay = "logcounts",
                                           name = "sysVI") {
  check_string(name)
  z <- TuneSysVI.default(describe_cells(object, assay = assay), system, batch, label, ...)
  add_reduced_dim(object, z, name)
}

check_distinct_weights <- function(x, name = rlang::caller_arg(x)) {
  if (!is.numeric(x) || !length(x) || !all(is.finite(x)) || any(x < 0) || anyDuplicated(x)) {
    sysvi_abort("{.arg {name}} must be one or more different finite numbers of 0 or more.")
  }
}

check_priors <- function(priors) {
  known <- eval(formals(sysvi_options)$prior)
  if (!is.character(priors) || !length(priors) || !all(priors %in% known) || anyDuplicated(priors)) {
    sysvi_abort("{.arg priors} must be one or more different ones of {quote_names(known)}.")
  }
}

# These settings are compared, so they are arguments of TuneSysVI() itself.
check_not_in_options <- function(options, names) {
  for (name in intersect(names, names(options))) {
    sysvi_abort("TuneSysVI() takes no {name} from {.arg options}: give {name}s = {deparse(options[[name]][1L])}.")
  }
}

# Seeds of the runs of a setting: 3 -> 0, 1, 2; c(4, 7) -> 4, 7; list(4) -> 4
list_seeds <- function(seeds) {
  values <- unlist(seeds)
  is_number_of_seeds <- !is.list(seeds) && length(seeds) == 1L
  valid <- rlang::is_integerish(values, finite = TRUE) && length(values) && all(values >= 0) && !anyDuplicated(values)
  if (!valid || is_number_of_seeds && seeds < 1) {
    sysvi_abort(paste(
      "{.arg seeds} must be the number of runs per setting, or different whole numbers of 0 or more: c(4, 7),",
      "list(4)."
    ))
  }
  if (is_number_of_seeds) seq_len(seeds) - 1L else values
}

read_tuning <- function(answer) {
  values <- answer$values
  structure(
    list(
      runs = decode_table(values$runs, answer$arrays$runs),
      settings = decode_table(values$settings, answer$arrays$settings),
      cycle_weight = values$chosen$cycle_weight, kl_weight = values$chosen$kl_weight, prior = values$chosen$prior,
      seed = values$chosen$seed, mixing = values$mixing, why = values$why, warnings = as.character(values$warnings)
    ),
    class = "SysVITuning"
  )
}

# `status` of the runs that were begun; `n_missing` more were not begun.
warn_if_runs_are_missing <- function(status, n_missing, folder) {
  n_ended <- sum(status != "interrupted")
  n_runs <- length(status) + n_missing
  if (n_ended < n_runs) {
    continuation <- if (is.null(folder)) "" else " The same call continues from there."
    sysvi_warn(
      "Training was interrupted after {n_ended} of {n_runs} runs; the choice is made among these.{continuation}"
    )
  }
}

#' @rdname TuneSysVI
#' @export
Tuning <- function(object, name = NULL) {
  if (inherits(object, "SysVITuning")) {
    return(object)
  }
  tunings <- find_results(object, "tuning", "SysVITuning")
  if (is(object, "SingleCellExperiment")) names(tunings) <- sub("_tuning$", "", names(tunings)) # see result_key()
  pick_result(tunings, name, "tuning", "TuneSysVI()")
}

#' @export
print.SysVITuning <- function(x, ...) {
  settings <- x$settings
  n_settings <- nrow(settings)
  several_kl_weights <- length(unique(settings$kl_weight)) > 1L
  several_priors <- length(unique(settings$prior)) > 1L
  measures <- c(x$mixing, "NMI", "Moran", "biology", "batch", "overall")
  columns <- c(
    "cycle_weight", if (several_kl_weights) "kl_weight", if (several_priors) "prior", "runs", measures
  )
  shown <- settings[columns]
  shown[measures] <- lapply(settings[measures], function(x) ifelse(is.na(x), "-", sprintf("%.3f", x)))
  names(shown) <- sub("kl_", "KL ", sub("cycle_", "cycle ", names(shown)))
  n_members <- settings$runs[settings$chosen]
  cat(sprintf(
    "Chosen of %d %s: cycle weight %s%s%s; the embedding is %s\n\n",
    n_settings, ngettext(n_settings, "setting", "settings"), format(x$cycle_weight),
    if (several_kl_weights) paste(", KL weight", format(x$kl_weight)) else "",
    if (several_priors) paste(", prior", x$prior) else "",
    if (n_members > 1L) sprintf("the mean of its %d runs", n_members) else sprintf("that of seed %.0f", x$seed)
  ))
  print(shown, row.names = ifelse(settings$chosen, ">", rep(" ", n_settings)))
  n_failed <- sum(x$runs$status == "failed")
  notes <- c(x$why, x$warnings, if (n_failed) sprintf("%d of %d runs failed.", n_failed, nrow(x$runs)))
  for (note in notes) cat("\n", paste0(strwrap(note), "\n"), sep = "")
  invisible(x)
}

#' @rdname TuneSysVI
#' @param x A `SysVITuning`.
#' @param row.names,optional Not used.
#' @export
as.data.frame.SysVITuning <- function(x, row.names = NULL, optional = FALSE, ...) x$runs

#' @rdname TuneSysVI
#' @export
plot.SysVITuning <- function(x, ...) {
  rlang::check_installed("ggplot2", "for plot().")
  select_points <- function(table) {
    table <- table[!is.na(table$overall), ]
    data.frame(
      mixing = table[[x$mixing]], biology = table$biology, cycle_weight = table$cycle_weight,
      line = factor(sprintf("prior %s, KL weight %s", table$prior, format(table$kl_weight, trim = TRUE))),
      chosen = table$chosen
    )
  }
  runs <- select_points(x$runs)
  settings <- select_points(x$settings)
  settings <- settings[order(settings$line, settings$cycle_weight), ]
  line_colours <- if (nlevels(settings$line) > 1L) {
    ggplot2::scale_colour_viridis_d(end = 0.85, name = NULL)
  } else {
    ggplot2::scale_colour_manual(values = "#4c78a8", guide = "none")
  }
  ggplot2::ggplot(settings, ggplot2::aes(.data$mixing, .data$biology, colour = .data$line)) +
    ggplot2::geom_point(data = runs, size = 1.2, alpha = 0.5) +
    ggplot2::geom_path(ggplot2::aes(group = .data$line)) +
    ggplot2::geom_point(size = 2.5) +
    ggplot2::geom_point(data = settings[settings$chosen, ], shape = 1, size = 6, stroke = 1, colour = "black") +
    ggplot2::geom_text(
      ggplot2::aes(label = format(.data$cycle_weight, trim = TRUE, drop0trailing = TRUE)),
      hjust = -0.9, vjust = -0.9, size = 3.2, colour = "black"
    ) +
    ggplot2::scale_x_continuous(expand = ggplot2::expansion(0.08)) +
    ggplot2::scale_y_continuous(expand = ggplot2::expansion(0.08)) +
    line_colours +
    ggplot2::labs(
      x = sprintf("mixing of systems (%s)", x$mixing), y = "biology score (scaled over the runs)",
      caption = "Labels: cycle weights. Large points: means over seeds; small: runs; circle: the chosen setting."
    ) +
    ggplot2::theme_minimal() +
    ggplot2::theme(panel.grid.minor = ggplot2::element_blank(), legend.position = "top")
}
