#' Simulate counts of several systems
#'
#' Cells of two or more systems that share cell types, with known truth: to try
#' things out. This is the engine's `sysvi.datasets.simulate_systems()`.
#'
#' @param n_cells,n_genes Number of cells and genes.
#' @param ... Further arguments of the engine's function, for example
#'   `n_systems`, `n_types`, `n_private` (types of one system only), `n_samples`
#'   and `system_effect`.
#' @param seed Whole number; the same seed gives the same counts.
#' @param process As in [RunSysVI()].
#'
#' @return List of `counts` (dgCMatrix, genes x cells) and `metadata`
#'   (data.frame with `system`, `batch`, `cell_type` and the activities of gene
#'   programmes).
#' @export
#' @examplesIf sysvi_available()
#' cells <- SimulateSystems(n_cells = 200, n_genes = 100)
#' table(cells$metadata$system, cells$metadata$cell_type)
SimulateSystems <- function(n_cells = 600L, n_genes = 400L, ..., seed = 0L, process = c("session", "separate")) {
  process <- one_of(process, c("session", "separate"), "process")
  further <- list(...)
  unknown <- further[!methods::allNames(further) %in% simulation_settings]
  do.call(no_dots, c(
    unknown,
    .of = "SimulateSystems", .rarer = sprintf(", or choose one of %s", quoted(simulation_settings, 30L))
  ))
  values <- list(n_cells = n_cells, n_genes = n_genes, seed = seed, ...)
  do.call(check_given, values)
  answer <- call_engine("simulate", values, process = process)
  v <- answer$values
  metadata <- as.data.frame(v$columns, optional = TRUE)
  rownames(metadata) <- v$cells
  list(counts = new_dgCMatrix(answer$arrays, "values", v$genes, v$cells), metadata = metadata)
}

# The further arguments of the engine's function.
simulation_settings <- c(
  "n_systems", "n_types", "n_private", "n_samples", "n_programmes", "system_programmes", "n_markers",
  "n_programme_genes", "baseline_sd", "marker_effect", "system_effect", "interaction", "interaction_fraction",
  "sample_effect", "programme_effect", "imbalance", "depth", "depth_sd", "dispersion"
)

# The arrays of a cells x genes CSR matrix are those of a genes x cells dgCMatrix.
new_dgCMatrix <- function(arrays, values, genes, cells) {
  new("dgCMatrix",
    x = as.double(arrays[[values]]), i = as.integer(arrays$genes), p = as.integer(arrays$starts),
    Dim = c(length(genes), length(cells)), Dimnames = list(genes, cells)
  )
}
