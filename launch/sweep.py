"""Print one command for each run of a config file's sweep; start nothing.

    python launch/sweep.py FILE[:TASK[,key=value...]] \\
        [--prefix="python -m recraft_jax.main"] >runs.sh
    bash runs.sh                                    # one after the other
    xargs -d '\\n' -n 1 -P 2 bash -c <runs.sh       # two at once

FILE's `sweep()` yields dicts. A key without a dot is one of FILE's own (task, method,
seed ...), a key with one is a field: {"method": "nft", "stage2.optim.lr": 1e-3}. What
follows the colon holds for every run that does not say otherwise.
"""

import argparse
import importlib.util
import pathlib
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn


def main(argv: Sequence[str]) -> int:
    """Print the commands; returns the exit code, after one line if it failed."""
    parser = _Parser(
        prog="python launch/sweep.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", metavar="FILE[:TASK,key=value...]")
    parser.add_argument("--prefix", default="python -m recraft_jax.main")
    try:
        given = parser.parse_args(argv)
        lines = commands(given.config, given.prefix)
    except ValueError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    for line in lines:
        print(line)
    return 0


def commands(config: str, prefix: str) -> list[str]:
    """Make the command lines of a sweep.

    Args:
      config: `FILE[:TASK,key=value...]`.
      prefix: what each line begins with, shell code.

    Raises:
      ValueError: there is no such sweep, or it yields what is no run.
    """
    file, _, arg = config.partition(":")
    defaults = {}
    for index, part in enumerate(arg.split(",") if arg else ()):
        key, sign, value = part.partition("=")
        if not sign and index == 0:
            key, value = "task", key
        elif not sign:
            raise ValueError(f"{config}: {part!r}; allowed: key=value")
        defaults[key] = value
    lines = []
    for run in _load(file)():
        if not isinstance(run, Mapping):
            raise ValueError(f"{file}: sweep() yields {run!r}; allowed: dicts")
        lines.append(f"{prefix} {shlex.join(_arguments(file, {**defaults, **run}))}")
    return lines


def _load(file: str):
    """Load a config file as `main` does and return its `sweep`."""
    path = pathlib.Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(
            f"there is no file {file!r}; allowed: a Python file with sweep(), for "
            "example configs/pde.py"
        )
    # Config files import their siblings as `configs.*`, from any working directory.
    sys.path.insert(0, str(path.resolve().parent.parent))
    spec = importlib.util.spec_from_file_location("recraft_config", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{file}: {error}; allowed: the Python the project is installed in"
        ) from None
    if not callable(getattr(module, "sweep", None)):
        raise ValueError(
            f"{file} has no sweep(); allowed: a file with one that yields dicts, for "
            "example configs/pde.py"
        )
    return module.sweep


def _arguments(file: str, run: Mapping[str, Any]) -> list[str]:
    spec: list[str] = []
    fields = []
    for key, value in run.items():
        text = str(value).lower() if isinstance(value, bool) else str(value)
        if "." in key:
            fields.append(f"--config.{key}={text}")
            continue
        if "," in text:
            raise ValueError(f"{file}: {key} = {text!r}; allowed: no comma in it")
        if key == "task":
            spec.insert(0, text)
        else:
            spec.append(f"{key}={text}")
    colon = ":" if spec else ""
    return [f"--config={file}{colon}{','.join(spec)}", *fields]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message}; allowed: FILE[:TASK,key=value...], --prefix=CODE")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
