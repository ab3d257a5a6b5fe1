# What the adapters in R share: cells in, embedding out.

# A sparse matrix, genes x cells, from the arrays of the CSR matrix of cells x genes.
read_matrix <- function(folder, name, genes, cells) {
  part <- function(suffix, what) {
    path <- file.path(folder, paste0(name, ".", suffix))
    readBin(path, what, n = file.size(path) / 4, size = 4, endian = "little")
  }
  Matrix::sparseMatrix(
    i = part("indices", "integer"), p = part("indptr", "integer"), x = part("data", "numeric"),
    dims = c(length(genes), length(cells)), dimnames = list(genes, cells), index1 = FALSE
  )
}

# Log-normalised expression, genes x cells, and the columns system, batch and label.
read_cells <- function(folder) {
  obs <- utils::read.csv(file.path(folder, "obs.csv"), row.names = 1, colClasses = "character")
  genes <- readLines(file.path(folder, "genes.txt"))
  list(obs = obs, expression = read_matrix(folder, "expression", genes, rownames(obs)))
}

# A matrix, cells x dimensions, as a NumPy file.
write_npy <- function(x, path) {
  header <- sprintf("{'descr': '<f8', 'fortran_order': True, 'shape': (%d, %d), }", nrow(x), ncol(x))
  header <- paste0(header, strrep(" ", 63 - (10 + nchar(header)) %% 64), "\n")
  file <- file(path, "wb")
  on.exit(close(file))
  writeBin(as.raw(c(0x93, utf8ToInt("NUMPY"), 1, 0)), file)
  writeBin(nchar(header), file, size = 2, endian = "little")
  writeChar(header, file, eos = NULL)
  writeBin(as.numeric(x), file, endian = "little")
}

# Input folder, output file and the run (settings, seed, epochs) from the command line.
arguments <- function() {
  given <- commandArgs(trailingOnly = TRUE)
  list(source = given[1], target = given[2], run = jsonlite::fromJSON(given[3]))
}
