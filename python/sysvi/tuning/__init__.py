"""Choosing the strength of integration."""
