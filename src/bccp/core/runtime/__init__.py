"""The process and the machine: device, threads, installed packages and their extras, provenance."""
