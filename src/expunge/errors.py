"""The few exceptions a user can act on, each with the exit code of the command line."""


class ExpungeError(Exception):
    """A run that failed for a reason the message explains. Exit code 1."""

    exit_code = 1


class InputError(ExpungeError, ValueError):
    """Wrong input: the message names the file, the row where there is one, and the remedy. Exit code 2.

    Raised before anything is written.
    """

    exit_code = 2


class Interrupted(ExpungeError, KeyboardInterrupt):
    """The user stopped the run: the message says how to go on. Exit code 130, as shells have it for Ctrl-C."""

    exit_code = 130


class NumericalError(ExpungeError):
    """A loss that is not finite: the message says at which step and what to try. Exit code 1."""


class DoesNotFit(ExpungeError):
    """Memory that does not hold the smallest piece of work: the message says which and what to try. Exit code 1."""


def first_line(error: Exception) -> str:
    """What somebody else's exception says, for a message of one line: its first one, at most 200 characters, or its
    name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def kind_of(value: object) -> str:
    """What a value is, for a message: the name of its type, or null, as files call what Python calls None."""
    return "null" if value is None else type(value).__name__
