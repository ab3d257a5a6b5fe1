# /// script
# dependencies = ["harmony", "irlba", "jsonlite"]
#
# [tool.sysvi]
# package = "harmony"
# imports = ["harmony", "irlba", "jsonlite"]
#
# [tool.sysvi.sources]
# HARMONY_SOURCE = "harmony"
#
# # The grid is ours. theta (default 2) is the weight of mixing.
# [tool.sysvi.methods.harmony-r]
# title = "Harmony (R)"
# settings = { theta = 2, n_components = 50 }
# grid = { theta = [1, 2, 5, 10] }
# ///
# Harmony (R package, version 2) on principal components, corrected for systems and batches.

here <- dirname(sub("^--file=", "", grep("^--file=", commandArgs(), value = TRUE)))
source(file.path(here, "common.R"))

given <- arguments()
settings <- given$run$settings
set.seed(given$run$seed)
cells <- read_cells(given$source)
x <- Matrix::t(cells$expression)
n_components <- min(settings$n_components, dim(x) - 1)
points <- irlba::prcomp_irlba(x, n = n_components)$x
theta <- rep(settings$theta, 2)
corrected <- harmony::RunHarmony(points, cells$obs, c("system", "batch"), theta = theta, verbose = FALSE)
write_npy(corrected, given$target)
