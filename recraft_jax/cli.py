"""What the commands other than `main` share: arguments, and bad input as one line."""

import argparse
import pathlib
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from recraft_jax import errors


class Parser(argparse.ArgumentParser):
    """Arguments of `python -m recraft_jax.NAME`, refused like other bad input."""

    def __init__(self, name: str, description: str):
        """Take the name of the module and its docstring."""
        super().__init__(
            prog=f"python -m recraft_jax.{name}",
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        names = [action.option_strings or [action.dest] for action in self._actions]
        allowed = ", ".join(options[-1] for options in names)
        raise errors.InputError(f"{message}; allowed: {allowed}")


def names(option: str, value: str, allowed: Sequence[str]) -> list[str]:
    """Split `NAME,NAME...`, or refuse the first name that is not allowed."""
    given = value.split(",")
    for name in given:
        if name not in allowed:
            raise errors.InputError(f"{option}={name}; allowed: {', '.join(allowed)}")
    return given


def count(option: str, value: str) -> int:
    """Read a whole number from 1 up."""
    if not value.isdecimal() or int(value) < 1:
        raise errors.InputError(f"{option}={value}; allowed: 1, 2, ...")
    return int(value)


def check_out(path: pathlib.Path) -> None:
    """Refuse `--out` before the work is done, if no file can be there."""
    if not path.parent.is_dir() or path.is_dir():
        raise errors.InputError(
            f"--out={path}; allowed: a file in a folder that exists"
        )


def run(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a command; returns the exit code, after one line if it failed."""
    try:
        command(argv)
    except (errors.InputError, errors.RunError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in errors.ENVIRONMENT:
            raise
        print(f"error: {error}", file=sys.stderr)
        return errors.InputError.exit_code
    return 0
