"""The command line, ``lens-steer``: one module for each group of commands, and the code that the commands share."""

from lens_steer.cli.app import main as main
