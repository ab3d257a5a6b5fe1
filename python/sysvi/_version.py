"""The package's version; the R package reads the same one from DESCRIPTION."""

__version__ = "0.1.0"
