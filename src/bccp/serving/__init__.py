"""Finished models at work: prediction of folders of images, export for other runtimes, and a service that records what it answers."""
