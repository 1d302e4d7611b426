"""Measures of a model on held-out images: metrics, error analysis, plots, cards, promotion."""
