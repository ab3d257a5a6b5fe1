"""Foundations of all other packages: errors, events, progress, settings, checks, files, devices and threads."""
