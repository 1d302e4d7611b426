"""Orchestration: plan, cache keys, steps and their environments, sweeps, and what works on finished runs."""
