"""Pages (HTML) and tables on runs, sweeps, comparisons and data checks."""
