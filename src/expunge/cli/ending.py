"""How a command ends, whatever ends it: exit code, one message, one line of JSON; for one process or several.

0: finished, and the verdict passes; 1: failed; 2: wrong input; 3: finished, and the verdict does not pass, or a hash
differs; 130: interrupted; 141: who read the output has gone (as shells have it for a broken pipe).
"""

import contextlib
import dataclasses
import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from expunge.config import commands
from expunge.errors import ExpungeError, InputError, Interrupted
from expunge.files import plain_json
from expunge.files.visible import in_a_line, visible
from expunge.runs import launcher

FAILED, WRONG_INPUT, NOT_PASSED, BROKEN_PIPE = 1, 2, 3, 141
JSON = "--json"


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """How a command ended, and what `--json` says of it."""

    code: int
    content: Mapping[str, Any] = dataclasses.field(default_factory=dict)


Command = Callable[[list[str]], Answer]
Complain = Callable[[str], None]


def told(arguments: list[str], command: Command) -> int:
    """Runs the command, tells what there is to tell, and returns the exit code."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries to one another, not to the user
    if launcher.processes() > 1:
        return _one_of_several(arguments, command)
    return _told(arguments, command, _complain)


def _told(arguments: list[str], command: Command, complain: Complain) -> int:
    """The exit code of a command; with `--json`, what it came to is the one line on stdout."""
    if JSON not in arguments:
        return _written(_answer(arguments, command, complain).code)
    arguments = [argument for argument in arguments if argument != JSON]
    with contextlib.redirect_stdout(sys.stderr):
        answer = _answer(arguments, command, complain)
    named = {"command": arguments[0] if arguments else None, "exit_code": answer.code}
    return _written(answer.code, json.dumps(plain_json.plain(named | dict(answer.content))) + "\n")


def _written(code: int, last: str = "") -> int:
    """The code, once all is printed, with a last line. Where nobody reads it any more (`| head`) the rest goes nowhere,
    and the interpreter, which flushes once more at its end, finds nothing broken."""
    try:
        sys.stdout.write(last)
        sys.stdout.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    if code == BROKEN_PIPE:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
    return code


def _answer(arguments: list[str], command: Command, complain: Complain) -> Answer:
    """What one command comes to, whatever ends it; what a user can act on is one line, given to `complain`."""
    try:
        launcher.check(arguments[0] if arguments else "")
        return command(arguments)
    except ExpungeError as error:
        complain(in_a_line(f"expunge: {error}"))
        return Answer(error.exit_code, {"error": str(error)})
    except KeyboardInterrupt:
        complain("expunge: interrupted; nothing was written.")
        return Answer(Interrupted.exit_code, {"error": "interrupted; nothing was written."})
    except SystemExit as stop:
        return Answer(int(stop.code or 0), {"error": "wrong flags"} if stop.code else {})
    except BrokenPipeError:
        return Answer(BROKEN_PIPE)
    except OSError as error:
        complain(in_a_line(f"expunge: {error.strerror}: {error.filename}"))
        return Answer(FAILED, {"error": f"{error.strerror}: {error.filename}"})
    except Exception as error:
        complain(_unforeseen(error, arguments))
        return Answer(FAILED, {"error": f"{type(error).__name__}, which nobody foresaw"})


def _unforeseen(error: Exception, arguments: list[str]) -> str:
    """Where a failure that nobody foresaw came from; its words, which a library may have made of rows, where rows are
    shown."""
    places = "".join(traceback.format_tb(error.__traceback__))
    how = "; --show-rows shows them" if arguments and arguments[0] in commands.taking("show_rows") else ""
    left_out = f"(its words may quote rows, so they are left out{how})"
    words = visible(str(error)) if "--show-rows" in arguments else left_out
    return f"Traceback (most recent call last):\n{places}expunge: nobody foresaw this: {type(error).__name__}: {words}"


def say(line: str) -> None:
    """A line may hold names and tokens that somebody else chose: none of them may steer the terminal."""
    print(in_a_line(line), flush=True)


def agreed(command: str) -> bool:
    """Asks on a terminal whether all that was listed may go. Raises `InputError` where nobody could answer."""
    if not sys.stdin.isatty():
        raise InputError(f"{command} asks before it removes, and nobody can answer here. Pass --yes.")
    print("Remove all of this? [y/N] ", end="", flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _complain(message: str) -> None:
    print(message, file=sys.stderr)


def _one_of_several(arguments: list[str], command: Command) -> int:
    """The same for one of several processes: the first of them prints; whichever fails first gives the one message.

    A launcher ends all processes once one has ended with another code than 0, so they end together, or at once.
    """
    from expunge.runs import distributed

    stderr = sys.stderr
    if launcher.rank():
        sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    signal.signal(signal.SIGTERM, _terminate)
    company = distributed.join()
    failures: list[str] = []
    try:
        code = _told(arguments, command, failures.append)
        if not failures:
            distributed.leave()
    except _Terminated:
        code = FAILED
    if failures and company.speaks():
        print(failures[0], file=stderr)
    sys.stdout.flush()
    stderr.flush()
    os._exit(code)  # no tear-down, which could wait for the others, and in which gloo's threads may abort the process


class _Terminated(BaseException):
    """The launcher ends this process, since another one failed; raised so that what was begun is cleared away."""


def _terminate(*signalled: object) -> None:
    raise _Terminated
