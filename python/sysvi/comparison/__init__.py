"""Comparing methods of integration."""
