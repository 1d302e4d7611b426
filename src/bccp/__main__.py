"""``python -m bccp`` is the command line ``bccp``."""

from bccp.cli.app import main

if __name__ == "__main__":
    main()
