"""The store: runs, versioned artifacts, lineage and the model registry in MLflow, and their mirror in Weights & Biases."""
