"""Classifiers: architectures, training sets, training, inference, embeddings, and the packed model that MLflow serves."""
