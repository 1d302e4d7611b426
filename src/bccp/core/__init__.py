"""Foundations that every other package may use: configuration, errors, paths, logs, and what a step is given."""
