#' sysVI: integrate single-cell data with substantial batch effects
#'
#' [RunSysVI()] integrates Seurat and SingleCellExperiment objects and
#' matrices; [SysVIIntegration()] does so inside `Seurat::IntegrateLayers()`.
#' [TuneSysVI()] chooses the strength of integration.
#' [PrepareSystems()] joins data sets of several species by a table of
#' orthologues. [BatchStrength()] asks before whether differences between
#' systems are substantial, [EvaluateIntegration()] afterwards whether mixing
#' and biology are good. [sysvi_doctor()] says what is missing when Python does not
#' work, [sysvi_install()] installs it.
#'
#' @references
#' Hrovatin, Moinfar et al. (2025). Integrating single-cell RNA-seq datasets
#' with substantial batch effects. BMC Genomics.
#'
#' @keywords internal
#' @importClassesFrom Matrix dgCMatrix
#' @importFrom methods as is new slot
#' @importFrom stats predict sd setNames
"_PACKAGE"
