"""The command line ``bccp``, built on click; :mod:`bccp.cli.app` is its entry point."""
