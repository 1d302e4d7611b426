"""Finished models at work: prediction of folders of images, export for other runtimes."""
