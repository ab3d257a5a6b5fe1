"""Measuring integrations."""
