# Build the website of the R package into build/site-r, from the files that git knows. Warnings of pkgdown are errors.
# The articles integrate simulated cells, with the Python of RETICULATE_PYTHON. No network is used: pkgdown takes seven
# scripts from its cache if they are there, and pkgdown/scripts has them as its cache does.
source <- "build/site-r-source"
target <- file.path(normalizePath("."), "build", "site-r")
library <- "build/site-r-library"
cache <- "build/site-r-cache"
unlink(c(source, target, library, cache), recursive = TRUE)
for (folder in c(source, library, cache)) dir.create(folder, recursive = TRUE)
# Pages of the repository are no pages of this website: of those in the top folder only NEWS.md is taken.
listed <- "git ls-files -z --cached --others --exclude-standard | grep -zEv '^(ARCHITECTURE|C[A-Z_]+|README)[.]md$'"
stopifnot(system(paste(listed, "| tar --null -cT - | tar -xC", source)) == 0)

utils::install.packages(source, lib = library, repos = NULL, type = "source", quiet = TRUE)
Sys.setenv(R_LIBS = paste(c(normalizePath(library), Sys.getenv("R_LIBS")), collapse = .Platform$path.sep))
.libPaths(c(normalizePath(library), .libPaths()))

Sys.setenv(R_USER_CACHE_DIR = normalizePath(cache))
scripts <- tools::R_user_dir("pkgdown", "cache")
dir.create(scripts, recursive = TRUE)
stopifnot(file.copy(list.dirs("pkgdown/scripts", recursive = FALSE), scripts, recursive = TRUE))

# Warnings of chunks and examples are part of their pages and do not reach this handler.
options(warn = 1, pkgdown.internet = FALSE)
faults <- character()
withCallingHandlers(
  {
    pkgdown::check_pkgdown(source)
    pkgdown::build_site(
      source,
      preview = FALSE, install = FALSE, new_process = FALSE, devel = FALSE, override = list(destination = target)
    )
  },
  warning = function(condition) faults <<- c(faults, conditionMessage(condition))
)
if (length(faults)) stop("There were warnings:\n", paste(faults, collapse = "\n"))
cat("The website of the R package:", file.path(target, "index.html"), "\n")
