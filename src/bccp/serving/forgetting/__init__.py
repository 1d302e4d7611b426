"""Forgetting of one image or one user: every place of the home that holds them, and their removal."""
