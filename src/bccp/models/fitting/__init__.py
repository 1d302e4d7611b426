"""Training of a classifier: options, losses, schedules, batches, checkpoints."""
