"""Choosing the integration strength."""
