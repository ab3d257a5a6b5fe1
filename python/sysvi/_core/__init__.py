"""What every other package builds on: errors, events, settings, checks, files, devices."""
