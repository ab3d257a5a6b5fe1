# Peak memory that RunSysVI() adds to an R session, on 100,000 cells x 3,000 genes; the matrix itself is included.
# Linux only, as it reads /proc. Writes benchmarks/results/r_memory.csv.
#
#   Rscript benchmarks/r_memory.R

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

integrate <- function(x, features) {
  system <- stats::setNames(rep_len(c("human", "mouse"), ncol(x)), colnames(x))
  RunSysVI(x, system = system, features = features, max_epochs = 1, verbose = FALSE)
}

measure <- function(genes) {
  pick <- function(x) if (genes == "given") rownames(x)
  integrate(small, pick(small)) # loads Python, torch and other libraries
  reset_peak()
  before <- megabytes("VmRSS")
  x <- random_cells(1e5)
  matrix <- as.numeric(object.size(x)) / 2^20
  reset_peak()
  seconds <- system.time(integrate(x, pick(x)))[["elapsed"]]
  added <- megabytes("VmHWM") - before
  data.frame(
    cells = ncol(x), genes = nrow(x), genes_are = genes, matrix_mb = round(matrix), peak_mb = round(added),
    ratio = round(added / matrix, 2), seconds = round(seconds)
  )
}

set.seed(0)
small <- random_cells(1000)
result <- rbind(measure("given"), measure("chosen"))
print(result)
write.csv(result, "benchmarks/results/r_memory.csv", row.names = FALSE, quote = FALSE)
