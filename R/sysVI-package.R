#' sysVI: integrate single-cell data with substantial batch effects
#'
#' [RunSysVI()] integrates Seurat objects, SingleCellExperiments and matrices;
#' [SysVIIntegration()] does so within `Seurat::IntegrateLayers()`. [TuneSysVI()]
#' chooses the strength of integration. [PrepareSystems()] joins data sets of
#' several species with a table of orthologues. [BatchStrength()] tells before an
#' integration whether the differences between systems are substantial,
#' [EvaluateIntegration()] measures its result. [MapSysVI()] brings new cells onto a
#' model and labels them. [sysvi_doctor()] tells what is
#' missing if Python does not work, [sysvi_install()] installs it.
#'
#' @inherit RunSysVI references
#'
#' @keywords internal
#' @importClassesFrom Matrix dgCMatrix
#' @importFrom methods as is new slot
#' @importFrom stats predict sd setNames
"_PACKAGE"
