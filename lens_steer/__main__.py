"""``python -m lens_steer``: the command line, also where its script is not on the path."""

from lens_steer.cli import main

if __name__ == "__main__":
    main()
