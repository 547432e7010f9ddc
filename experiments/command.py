"""What every command of the suite shares: --help with an example, --json, exit codes, errors in one line."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rich.console import Console

DONE, FAILED, MISUSED = 0, 1, 2
console = Console(stderr=True)


class Failure(Exception):
    """An expected failure; its message is all that the user needs to see."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(MISUSED, f"{self.prog}: {message}\nTry {self.prog} --help\n")


class Misuse(Failure):
    """Options that do not go together."""

    misused = True


def parser(module: str, description: str, example: str) -> argparse.ArgumentParser:
    """A parser for `python -m module` with --json. Examples stand at the end of --help, as typed."""
    made = _Parser(
        prog=f"python -m {module}",
        description=description,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--json", action="store_true", help="print one JSON object with the result on standard output")
    return made


def main(
    made: argparse.ArgumentParser,
    work: Callable[[argparse.Namespace], dict[str, Any]],
    show: Callable[[dict[str, Any]], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Parse, work, and print the result for people (`show`) or as JSON. Returns the exit code.

    ValueError, OSError and Failure are a user's to mend and print as one line; anything else is ours and keeps its traceback.
    """
    args = made.parse_args(argv)
    try:
        result = work(args)
    except KeyboardInterrupt:
        console.print("interrupted; run the same command to go on", highlight=False)
        return 130
    except (ValueError, OSError, Failure) as error:
        print(f"error: {error}", file=sys.stderr)
        return MISUSED if getattr(error, "misused", False) else FAILED
    try:
        if args.json:
            json.dump(result, sys.stdout, allow_nan=False)
            sys.stdout.write("\n")
        else:
            show(result)
        sys.stdout.flush()
    except BrokenPipeError:  # head, or a pager that was left, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return DONE
