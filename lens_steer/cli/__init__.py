"""The command line, ``lens-steer``: one module a group of commands, and what they share."""

from lens_steer.cli.app import main as main
