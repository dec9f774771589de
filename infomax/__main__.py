"""`python -m infomax`: the command line, where the `infomax` command is not on the path."""

from infomax.cli import main

if __name__ == "__main__":  # importing it, as a search through the package does, runs nothing
    main()
