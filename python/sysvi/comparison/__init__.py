"""Comparison of integration methods, each run in an environment of its own."""
