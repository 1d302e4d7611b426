"""Given labels: noise, feedback, annotators, the label posterior, the cut-off, and the report on suspects."""
