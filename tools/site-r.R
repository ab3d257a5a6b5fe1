# Build the website of the R package into build/site-r, from the files that git knows. No network is used, but for seven
# files of JavaScript that pkgdown takes from the web at its first use and keeps. Warnings are errors. The articles integrate simulated cells, with the Python of RETICULATE_PYTHON.
source <- "build/site-r-source"
target <- file.path(normalizePath("."), "build", "site-r")
library <- "build/site-r-library"
unlink(c(source, target, library), recursive = TRUE)
for (folder in c(source, library)) dir.create(folder, recursive = TRUE)
# Pages of the repository are no pages of this website: of those in the top folder only NEWS.md is taken.
listed <- "git ls-files -z --cached --others --exclude-standard | grep -zEv '^(ARCHITECTURE|C[A-Z_]+|README)[.]md$'"
stopifnot(system(paste(listed, "| tar --null -cT - | tar -xC", source)) == 0)

utils::install.packages(source, lib = library, repos = NULL, type = "source", quiet = TRUE)
Sys.setenv(R_LIBS = paste(c(normalizePath(library), Sys.getenv("R_LIBS")), collapse = .Platform$path.sep))
.libPaths(c(normalizePath(library), .libPaths()))

options(warn = 2, pkgdown.internet = FALSE)
pkgdown::check_pkgdown(source)
pkgdown::build_site(
  source,
  preview = FALSE, install = FALSE, new_process = FALSE, devel = FALSE, override = list(destination = target)
)
cat("The website of the R package:", file.path(target, "index.html"), "\n")
