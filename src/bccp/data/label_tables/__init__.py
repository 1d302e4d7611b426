"""Tables of labels: who says what about which image, in the layouts in which tools, crowds and data sets write it."""
