"""`python -m expunge`."""

from expunge.cli.command_line import entry

entry()
