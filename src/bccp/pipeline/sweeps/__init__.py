"""Sweeps: their plan, jobs, shared resources, and the search with Optuna."""
