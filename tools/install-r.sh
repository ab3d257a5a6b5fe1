#!/usr/bin/env bash
# Install R and all R packages for developing, testing and checking sysVI, on Debian 12 or 13.
# On Debian 12 they come from Debian 13, pinned so that the system's own Python, Perl and git are not replaced.
# Does nothing if everything is installed; repairs what an interrupted run left behind.
set -euo pipefail

cran="Matrix Seurat SeuratObject callr cli ggplot2 jsonlite knitr lintr patchwork pkgdown processx rcmdcheck
  reticulate rlang rmarkdown roxygen2 testthat withr"
bioc="BiocCheck BiocGenerics BiocStyle DelayedArray HDF5Array S4Vectors SingleCellExperiment
  SummarizedExperiment scater"

list_missing() {
  command -v Rscript >/dev/null || { echo "R"; return; }
  # shellcheck disable=SC2086
  Rscript --vanilla - $cran $bioc <<'R'
needs <- commandArgs(trailingOnly = TRUE)
at_least <- c(Seurat = "5.0", SeuratObject = "5.0", reticulate = "1.41")
installed <- nzchar(vapply(needs, function(package) system.file(package = package), ""))
outdated <- vapply(names(at_least), function(package) {
  package %in% needs[installed] && packageVersion(package) < at_least[[package]]
}, logical(1))
cat(c(if (getRversion() < "4.4") "R (4.4 or later)", needs[!installed], paste(names(at_least), at_least)[outdated]))
R
}

is_broken() { command -v dpkg >/dev/null && [ -n "$(dpkg --audit)" ]; }

missing_packages=$(list_missing)
if [ -z "$missing_packages" ] && ! is_broken; then
  exit 0
fi

release=$(. /etc/os-release 2>/dev/null && echo "${VERSION_CODENAME:-}" || true)
if [ "$release" != bookworm ] && [ "$release" != trixie ]; then
  echo "Missing: $missing_packages. Install R 4.4 or later with these packages from CRAN and Bioconductor, then run this again." >&2
  exit 1
fi
if [ "$(id -u)" != 0 ]; then
  exec sudo "$0"
fi

echo "Installing R and its packages (takes some minutes the first time)."
exec </dev/null
export DEBIAN_FRONTEND=noninteractive
apt="apt-get -y -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3
  -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold"

if [ "$release" = bookworm ]; then
  # Debian 13 from the same mirror as Debian 12: a copy of the source entry, in either format, with the other suite.
  sources=/etc/apt/sources.list.d
  if [ -e $sources/debian.sources ]; then
    awk 'BEGIN { RS = ""; ORS = "\n\n" }
      /(^|\n)Suites: *bookworm( |\n|$)/ { sub(/Suites:[^\n]*/, "Suites: trixie"); print }
    ' $sources/debian.sources >$sources/sysvi-trixie.sources
  else
    sed -nE 's/^(deb .*) bookworm (.*)$/\1 trixie \2/p' /etc/apt/sources.list >$sources/sysvi-trixie.list
  fi
  cat >/etc/apt/preferences.d/sysvi-trixie <<'PIN'
Package: *
Pin: release n=trixie
Pin-Priority: 100

Package: python3 python3-minimal libpython3-stdlib python3.11 perl perl-base git
Pin: release n=trixie
Pin-Priority: -1
PIN
fi

dpkg --configure -a
$apt -f install
$apt update
# shellcheck disable=SC2046,SC2086
$apt install -t trixie --no-install-recommends r-base-core r-base-dev r-recommended pandoc \
  $(printf 'r-cran-%s ' ${cran,,}) $(printf 'r-bioc-%s ' ${bioc,,})

missing_packages=$(list_missing)
if [ -n "$missing_packages" ]; then
  echo "Still missing after the installation: $missing_packages" >&2
  exit 1
fi
