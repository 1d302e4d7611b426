"""Parts of :mod:`benchmarks.serve`: models and pictures that it makes, rival servers, load, and checks of what must not be lost."""
