#' Choose the strength of integration
#'
#' Integrates with several cycle weights, priors and seeds, measures each result,
#' chooses a setting, and returns what [RunSysVI()] would with it, with the comparison
#' beside it.
#'
#' @details
#' With `label` the choice is the paper's: NMI with the cell types and the ratio of
#' Moran's I are scaled to \[0, 1\] over the runs, their mean is biology; iLISI,
#' scaled, is batch correction; the score is 0.6 biology + 0.4 batch correction.
#' The setting with the highest mean over the seeds is chosen, and of its runs the
#' one of median score.
#'
#' Without labels states of cells, found in each system by itself, take their
#' place, and mixing is measured only where systems share a state: mixing the
#' states of one system into others earns nothing.
#'
#' Ctrl-C or Esc ends training after the current step; the choice is made among
#' the runs that have finished, with a warning. Models train side by side, one
#' thread each.
#'
#' @inheritParams RunSysVI
#' @param object As in [RunSysVI()]: a Seurat object, a SingleCellExperiment, or a
#'   matrix of genes x cells of any kind. For `Tuning()`, what `TuneSysVI()` returned.
#' @param label Cell types, the same way, if they are known: to measure by, never to
#'   train with. Cells whose type is missing, empty or called `"unknown"`,
#'   `"unassigned"` or the like do not count.
#' @param cycle_weights,kl_weights Settings to compare: every cycle weight with
#'   every weight of the prior. Each is a number, ramped up as in [RunSysVI()].
#' @param priors Priors to compare, with every weight: one or more of `"vamp"`, `"gmm"`
#'   and `"standard_normal"` (see [sysvi_options()]). Whether `"vamp"` or
#'   `"standard_normal"` is better depends on the cells.
#' @param seeds How many runs of each setting (seeds 0, 1, ...), or which seeds:
#'   `c(4, 7)`; one alone is `list(4)`.
#' @param folder Folder in which finished runs are kept, made if missing. The same
#'   call after an interrupt or a crash goes on from there, and weights or seeds can
#'   be added later. `NULL`: runs are kept in memory until the choice.
#' @param min_cells Fewest cells of a sample x type group for Moran's I.
#' @param max_cells Measure a random sample of at most this many cells, as large a
#'   share of each system and label as of all. All cells are trained on.
#' @param name Name of the new reduced dimension. For `Tuning()`, of the reduction or
#'   reduced dimension whose tuning is meant; `NULL`: the one there is.
#' @param options Further settings, see [sysvi_options()]; the same for all runs.
#' @param ... For the methods, the arguments of the default method from
#'   `cycle_weights` on, by their names. For `plot()`, not used.
#'
#' @return `TuneSysVI()`: the object as [RunSysVI()] returns it, with embedding and
#'   model of the chosen run, and the tuning beside them. `Tuning()`: this tuning,
#'   from `Misc(object[["sysvi"]], "tuning")`, `metadata(object)[["sysVI_tuning"]]`
#'   or `attr(x, "tuning")`; a list of class `SysVITuning`, plain data throughout:
#'   * `runs`: data frame with a row a run: `cycle_weight`, `kl_weight`, `prior`,
#'     `seed`, `status`, the measures and what they are scaled, `biology`, `batch`,
#'     `overall`, whether it is of the `chosen` setting, and its `representative`. A
#'     run that failed or was interrupted has no measures.
#'   * `settings`: data frame with a row a setting, the best first: means over its
#'     seeds.
#'   * `cycle_weight`, `kl_weight`, `prior`, `seed`: those of the chosen run.
#'   * `mixing`: name of the column with the measure of mixing, `"iLISI"` or
#'     `"shared mixing"`.
#'   * `why`: the choice in two sentences.
#'   * `warnings`: what speaks against the chosen run, a sentence each, such as
#'     latent dimensions that collapsed or a cell type of one system that moved
#'     onto another.
#'
#'   `print()` shows settings, reasons and warnings, `as.data.frame()` gives the
#'   runs, `plot()` returns a ggplot of mixing against biology.
#'
#' @inheritSection RunSysVI Errors
#' @inherit RunSysVI references
#' @seealso [RunSysVI()], and [EvaluateIntegration()] for more measures.
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 300, n_genes = 150, seed = 1)
#' x <- log1p(log1p(cells$counts)) # any log-normalised values will do for an example
#' z <- TuneSysVI(
#'   x, "system", "batch", "cell_type",
#'   metadata = cells$metadata, cycle_weights = c(0, 5), seeds = 1, max_epochs = 2, verbose = FALSE
#' )
#' Tuning(z)
#' if (requireNamespace("ggplot2", quietly = TRUE)) plot(Tuning(z))
TuneSysVI <- function(object, system, batch = NULL, label = NULL, ...) UseMethod("TuneSysVI")

#' @rdname TuneSysVI
#' @export
TuneSysVI.default <- function(object, system, batch = NULL, label = NULL, ..., metadata = NULL,
                              cycle_weights = c(0, 2, 5, 10, 20, 50), kl_weights = 1, priors = "vamp", seeds = 3L,
                              folder = NULL, covariates = NULL, continuous = NULL, features = NULL,
                              n_top_genes = 3000L, max_epochs = NULL, n_latent = 15L, min_cells = 200L,
                              max_cells = 50000L, device = "auto", process = c("session", "separate"),
                              verbose = TRUE, options = sysvi_options()) {
  fit <- tune_cells(
    cells_of(object, metadata = metadata), system, batch, label, ...,
    cycle_weights = cycle_weights, kl_weights = kl_weights, priors = priors, seeds = seeds, folder = folder,
    covariates = covariates, continuous = continuous, features = features, n_top_genes = n_top_genes,
    max_epochs = max_epochs, n_latent = n_latent, min_cells = min_cells, max_cells = max_cells, device = device,
    process = process, verbose = verbose, options = options
  )
  structure(fit$embedding, sysVI = fit$model, tuning = fit$tuning)
}

#' @rdname TuneSysVI
#' @export
TuneSysVI.Seurat <- function(object, system, batch = NULL, label = NULL, ..., assay = NULL, layer = "data",
                             reduction.name = "sysvi", reduction.key = "sysvi_") {
  check_string(reduction.name, "reduction.name")
  check_string(reduction.key, "reduction.key")
  if (is.null(assay)) assay <- SeuratObject::DefaultAssay(object)
  fit <- tune_cells(cells_of(object, assay = assay, layer = layer), system, batch, label, ...)
  object[[reduction.name]] <- as_reduction(fit, assay, reduction.key)
  SeuratObject::LogSeuratCommand(object)
}

#' @rdname TuneSysVI
#' @export
TuneSysVI.SingleCellExperiment <- function(object, system, batch = NULL, label = NULL, ..., assay = "logcounts",
                                           name = "sysVI") {
  check_string(name, "name")
  fit <- tune_cells(cells_of(object, assay = assay), system, batch, label, ...)
  add_reduced_dim(object, fit, name)
}

# As integrate_cells(), with the tuning. Settings come after the dots, or `seed`
# would be taken for `seeds`.
tune_cells <- function(cells, system, batch = NULL, label = NULL, ..., cycle_weights = c(0, 2, 5, 10, 20, 50),
                       kl_weights = 1, priors = "vamp", seeds = 3L, folder = NULL, covariates = NULL,
                       continuous = NULL, features = NULL, n_top_genes = 3000L, max_epochs = NULL, n_latent = 15L,
                       min_cells = 200L, max_cells = 50000L, device = "auto", process = c("session", "separate"),
                       verbose = TRUE, options = sysvi_options()) {
  no_dots(..., .of = "TuneSysVI")
  check_weights(cycle_weights, "cycle_weights")
  check_weights(kl_weights, "kl_weights")
  check_priors(priors)
  seeds <- which_seeds(seeds)
  check_given(min_cells = min_cells, max_cells = max_cells)
  check_options(options)
  for (name in c("kl_weight", "prior")) {
    if (!isTRUE(all.equal(options[[name]], sysvi_options()[[name]]))) {
      abort("TuneSysVI() takes no %s from options: give %ss = %s.", name, name, deparse(options[[name]][1L]))
    }
  }
  options[c("kl_weight", "prior")] <- NULL
  if (!is.null(folder)) {
    check_string(folder, "folder")
    make_folder(folder)
    folder <- normalizePath(folder) # the engine may run in another place
  }
  fit <- train_on(
    "tune", cells, system, batch, label, covariates, continuous, features, n_top_genes,
    list(max_epochs = max_epochs, n_latent = n_latent), device, process, verbose, options,
    own = list(folder = folder, compared = list(
      cycle_weights = I(cycle_weights), kl_weights = I(kl_weights), priors = I(priors), seeds = I(seeds),
      min_cells = min_cells, max_cells = max_cells
    ))
  )
  fit$tuning <- read_tuning(fit$answer)
  warn_if_runs_are_missing(fit$tuning$runs$status, fit$answer$values$n_missing, folder)
  fit
}

check_weights <- function(x, name) {
  if (!is.numeric(x) || !length(x) || !all(is.finite(x)) || any(x < 0) || anyDuplicated(x)) {
    abort("%s must be finite numbers of 0 or more, none of them twice.", name)
  }
}

check_priors <- function(x) {
  known <- eval(formals(sysvi_options)$prior)
  if (!is.character(x) || !length(x) || !all(x %in% known) || anyDuplicated(x)) {
    abort("priors must be one or more of %s, none of them twice.", quoted(known))
  }
}

# 3 -> 0, 1, 2; c(4, 7) -> 4, 7; list(4) -> 4
which_seeds <- function(seeds) {
  several <- unlist(seeds)
  whole <- is.numeric(several) && length(several) && all(is.finite(several) & several >= 0 & several %% 1 == 0)
  n_of_them <- !is.list(seeds) && length(seeds) == 1L
  if (!whole || anyDuplicated(several) || n_of_them && seeds < 1) {
    abort("seeds must be a number of runs of each setting, or different whole numbers of 0 or more: c(4, 7), list(4).")
  }
  if (n_of_them) seq_len(seeds) - 1L else several
}

read_tuning <- function(answer) {
  values <- answer$values
  structure(
    list(
      runs = read_table(values$runs, answer$arrays$runs),
      settings = read_table(values$settings, answer$arrays$settings),
      cycle_weight = values$chosen$cycle_weight, kl_weight = values$chosen$kl_weight, prior = values$chosen$prior,
      seed = values$chosen$seed, mixing = values$mixing, why = values$why, warnings = as.character(values$warnings)
    ),
    class = "SysVITuning"
  )
}

# `n_missing` runs were not begun.
warn_if_runs_are_missing <- function(status, n_missing, folder) {
  ended <- sum(status != "interrupted")
  asked <- length(status) + n_missing
  if (ended < asked) {
    warning(sprintf(
      "Training was interrupted after %d of %d runs; the choice is among these.%s", ended, asked,
      if (is.null(folder)) "" else " The same call goes on from there."
    ), call. = FALSE)
  }
}

#' @rdname TuneSysVI
#' @export
Tuning <- function(object, name = NULL) {
  if (inherits(object, "SysVITuning")) {
    return(object)
  }
  found <- beside(object, "tuning", "SysVITuning")
  if (is(object, "SingleCellExperiment")) names(found) <- sub("_tuning$", "", names(found)) # see tuning_of()
  the_one(found, name, "tuning", "TuneSysVI()")
}

#' @export
print.SysVITuning <- function(x, ...) {
  table <- x$settings
  kl_weights <- length(unique(table$kl_weight)) > 1L
  priors <- length(unique(table$prior)) > 1L
  measures <- c(x$mixing, "NMI", "Moran", "biology", "batch", "overall")
  shown <- c("cycle_weight", if (kl_weights) "kl_weight", if (priors) "prior", "runs", measures)
  cells <- table[shown]
  cells[measures] <- lapply(table[measures], function(x) ifelse(is.na(x), "-", sprintf("%.3f", x)))
  names(cells) <- sub("kl_", "KL ", sub("cycle_", "cycle ", names(cells)))
  cat(sprintf(
    "Chosen of %d %s: cycle weight %s%s%s; the embedding is that of seed %.0f\n\n",
    nrow(table), ngettext(nrow(table), "setting", "settings"), format(x$cycle_weight),
    if (kl_weights) paste(", KL weight", format(x$kl_weight)) else "", if (priors) paste(", prior", x$prior) else "",
    x$seed
  ))
  print(cells, row.names = ifelse(table$chosen, ">", rep(" ", nrow(table))))
  failed <- sum(x$runs$status == "failed")
  notes <- c(x$why, x$warnings, if (failed) sprintf("%d of %d runs failed.", failed, nrow(x$runs)))
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
  need_package("ggplot2", "plot()")
  points <- function(table) {
    table <- table[!is.na(table$overall), ]
    data.frame(
      mixing = table[[x$mixing]], biology = table$biology, cycle_weight = table$cycle_weight,
      line = factor(sprintf("prior %s, KL weight %s", table$prior, format(table$kl_weight, trim = TRUE))),
      chosen = table$chosen
    )
  }
  runs <- points(x$runs)
  settings <- points(x$settings)
  settings <- settings[order(settings$line, settings$cycle_weight), ]
  of_lines <- if (nlevels(settings$line) > 1L) {
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
    of_lines +
    ggplot2::labs(
      x = sprintf("mixing of the systems (%s)", x$mixing), y = "biology kept (scaled over the runs)",
      caption = "Numbers: cycle weights, means over seeds (small: runs). Circle: the chosen setting."
    ) +
    ggplot2::theme_minimal() +
    ggplot2::theme(panel.grid.minor = ggplot2::element_blank(), legend.position = "top")
}
