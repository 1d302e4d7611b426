"""The earlier name of :mod:`bccp.labels.label_cleaner`."""

from bccp.labels.label_cleaner import LabelCleaner as LabelCleaner
