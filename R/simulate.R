#' Simulate counts of several systems
#'
#' Simulates cells of two or more systems that share cell types, with known truth,
#' to try things out. It calls the engine's `sysvi.datasets.simulate_systems()`.
#'
#' @param n_cells,n_genes Number of cells and of genes.
#' @param ... Further arguments of the engine's function, for example `n_systems`,
#'   `n_types`, `n_private` (number of cell types that occur in one system only),
#'   `n_samples` and `system_effect`.
#' @param seed Random seed, a whole number; the same seed gives the same counts.
#' @param process As in [RunSysVI()].
#'
#' @return List of `counts` (dgCMatrix, genes x cells) and `metadata` (data.frame
#'   with `system`, `batch`, `cell_type` and the activity of gene programmes in
#'   each cell).
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 200, n_genes = 100)
#' table(cells$metadata$system, cells$metadata$cell_type)
SimulateSystems <- function(n_cells = 600L, n_genes = 400L, ..., seed = 0L, process = c("session", "separate")) {
  process <- rlang::arg_match(process)
  check_whole_number(n_cells)
  check_whole_number(n_genes)
  check_whole_number(seed)
  settings <- list(...)
  unknown <- setdiff(methods::allNames(settings), simulation_settings)
  if (length(unknown)) {
    sysvi_abort(paste(
      "SimulateSystems() has no argument {quote_names(unknown)}: further arguments are",
      "{quote_names(simulation_settings, 30L)}."
    ))
  }
  for (name in names(settings)) check_number(settings[[name]], name = name)
  answer <- call_engine(
    "simulate", c(list(n_cells = n_cells, n_genes = n_genes, seed = seed), settings),
    process = process
  )
  metadata <- as.data.frame(answer$values$columns, optional = TRUE)
  rownames(metadata) <- answer$values$cells
  list(
    counts = decode_dgCMatrix(answer$arrays, "values", answer$values$genes, answer$values$cells),
    metadata = metadata
  )
}

# Further arguments of the engine's function.
simulation_settings <- c(
  "n_systems", "n_types", "n_private", "n_samples", "n_programmes", "system_programmes", "n_markers",
  "n_programme_genes", "baseline_sd", "marker_effect", "system_effect", "interaction", "interaction_fraction",
  "sample_effect", "programme_effect", "imbalance", "depth", "depth_sd", "dispersion"
)
