"""Genes that differ between systems in one state, and genes that mark a state in both."""
