# Functions shared by the adapters in R: reading the cells and writing the embedding.

# Sparse matrix (genes x cells) from the arrays of the CSR matrix (cells x genes), four bytes a value, little-endian.
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

# List of the log-normalised `expression` (genes x cells) and `obs`, a data frame with system, batch and label.
read_cells <- function(folder) {
  obs <- utils::read.csv(file.path(folder, "obs.csv"), row.names = 1, colClasses = "character")
  genes <- readLines(file.path(folder, "genes.txt"))
  list(obs = obs, expression = read_matrix(folder, "expression", genes, rownames(obs)))
}

# Write a matrix (cells x latent dimensions) as a NumPy file (.npy, float64).
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

# Command line arguments: input folder `source`, output file `target`, and the `run` (settings, seed, epochs).
arguments <- function() {
  given <- commandArgs(trailingOnly = TRUE)
  list(source = given[1], target = given[2], run = jsonlite::fromJSON(given[3]))
}
