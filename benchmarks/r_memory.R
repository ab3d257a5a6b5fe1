# Peak memory that RunSysVI() adds to an R session, on 100,000 cells x 3,000 genes; the matrix itself is included.
# Linux only, as it reads /proc. Writes benchmarks/results/r_memory.csv.
#
#   Rscript benchmarks/r_memory.R
#
# With "disk": peak memory of R and of the engine in a process of its own, on 50,000 cells x 3,000 genes with a fifth of
# the values non-zero, for a matrix in memory and one in an HDF5 file with `memory`; and memory of R before the call, with
# what a garbage collection would free. Writes benchmarks/results/r_memory_disk.csv.
#
#   Rscript benchmarks/r_memory.R disk

library(sysVI)

megabytes <- function(field) {
  line <- grep(field, readLines("/proc/self/status"), value = TRUE)
  as.numeric(gsub("[^0-9]", "", line)) / 1024
}

reset_peak <- function() {
  invisible(gc())
  writeLines("5", "/proc/self/clear_refs")
}

random_cells <- function(n_cells, n_genes = 3000, density = 0.1) {
  x <- Matrix::rsparsematrix(n_genes, n_cells, density, rand.x = function(n) stats::runif(n, 0.5, 4))
  dimnames(x) <- list(paste0("gene", seq_len(n_genes)), paste0("cell", seq_len(n_cells)))
  x
}

integrate <- function(x, ...) {
  system <- stats::setNames(rep_len(c("human", "mouse"), ncol(x)), colnames(x))
  RunSysVI(x, system = system, max_epochs = 1, verbose = FALSE, ...)
}

# -- in this session -------------------------------------------------------------------------------------------------

measure <- function(small, genes) {
  pick <- function(x) if (genes == "given") rownames(x)
  integrate(small, features = pick(small)) # loads Python, torch and other libraries
  reset_peak()
  before <- megabytes("VmRSS")
  x <- random_cells(1e5)
  matrix <- as.numeric(object.size(x)) / 2^20
  reset_peak()
  seconds <- system.time(integrate(x, features = pick(x)))[["elapsed"]]
  added <- megabytes("VmHWM") - before
  data.frame(
    cells = ncol(x), genes = nrow(x), genes_are = genes, matrix_mb = round(matrix), peak_mb = round(added),
    ratio = round(added / matrix, 2), seconds = round(seconds)
  )
}

in_session <- function() {
  set.seed(0)
  small <- random_cells(1000)
  rbind(measure(small, "given"), measure(small, "chosen"))
}

# -- in a process of its own, from disk ------------------------------------------------------------------------------

# A Python for the engine that writes the peak memory of the process, in kB, into `file`.
measured_python <- function(file) {
  code <- paste(
    "import resource, subprocess, sys; status = subprocess.call([sys.executable, *sys.argv[2:]]);",
    "open(sys.argv[1], 'w').write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)); sys.exit(status)"
  )
  script <- tempfile("python")
  python <- Sys.getenv("RETICULATE_PYTHON")
  writeLines(c("#!/bin/sh", sprintf('exec %s -c "%s" %s "$@"', python, code, file)), script)
  Sys.chmod(script, "755")
  script
}

# R is another process for each case, so that no case reuses memory of the one before.
measure_processes <- function(path, on_disk, memory) {
  set_up <- c("megabytes", "reset_peak", "integrate", "measured_python")
  run <- function(path, on_disk, memory, functions) {
    list2env(functions, globalenv())
    library(sysVI)
    x <- HDF5Array::TENxMatrix(path, "cells")
    if (!on_disk) x <- methods::as(x, "dgCMatrix")
    file <- tempfile()
    Sys.setenv(SYSVI_PYTHON = measured_python(file))
    before <- megabytes("VmRSS")
    reset_peak()
    seconds <- system.time(
      z <- integrate(x, features = rownames(x), members = 1, process = "separate", memory = memory)
    )[["elapsed"]]
    list(
      cells = nrow(z), before = before, r = megabytes("VmHWM"), seconds = seconds,
      python = as.numeric(readLines(file, warn = FALSE)) / 1024
    )
  }
  found <- callr::r(run, list(path, on_disk, memory, mget(set_up, globalenv())))
  data.frame(
    cells = found$cells, matrix_is = if (on_disk) "in an HDF5 file" else "in memory",
    memory = if (is.null(memory)) "no limit" else memory, r_before_mb = round(found$before), r_peak_mb = round(found$r),
    engine_peak_mb = round(found$python), seconds = round(found$seconds)
  )
}

from_disk <- function() {
  path <- tempfile(fileext = ".h5")
  callr::r( # in another process, so that this one never holds the matrix
    function(path, random_cells) {
      set.seed(0)
      HDF5Array::writeTENxMatrix(random_cells(5e4, density = 0.2), path, "cells", level = 0)
      NULL
    },
    list(path, random_cells)
  )
  rbind(measure_processes(path, FALSE, NULL), measure_processes(path, TRUE, "1110MB"))
}

is_disk <- identical(commandArgs(trailingOnly = TRUE), "disk")
result <- if (is_disk) from_disk() else in_session()
print(result)
file <- if (is_disk) "benchmarks/results/r_memory_disk.csv" else "benchmarks/results/r_memory.csv"
write.csv(result, file, row.names = FALSE, quote = FALSE)
