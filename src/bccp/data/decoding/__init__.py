"""From the bytes of an image file to an upright RGB picture."""
