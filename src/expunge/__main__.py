"""`python -m expunge`."""

from expunge.cli import entry

entry()
