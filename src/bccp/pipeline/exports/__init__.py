"""The parts of ``bccp export-data``: the data set to write, the formats, and the targets, near and far."""
