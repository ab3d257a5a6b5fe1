# Build the R package with its vignettes from the files that git knows, then run R CMD check and BiocCheck.
# The check leaves out tests, which `make test` runs, and vignettes, which the build has run already.
unlink("build/sysVI", recursive = TRUE)
dir.create("build/sysVI", recursive = TRUE)
stopifnot(system("git ls-files -z --cached --others --exclude-standard | tar --null -cT - | tar -xC build/sysVI") == 0)

tarball <- pkgbuild::build("build/sysVI", "build")
megabytes <- file.size(tarball) / 1e6
cat(sprintf("%s: %.1f MB\n", basename(tarball), megabytes))
stopifnot("the tarball must be smaller than 5 MB" = megabytes < 5)

rcmdcheck::rcmdcheck(tarball, args = c("--no-manual", "--no-tests", "--no-vignettes"), error_on = "note")

bioc <- BiocCheck::BiocCheck(
  tarball,
  `no-check-deprecated` = TRUE, `no-check-remotes` = TRUE, `no-check-CRAN` = TRUE, `no-check-bioc-help` = TRUE
)
quit(status = length(bioc$error) > 0)
