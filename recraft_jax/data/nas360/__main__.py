"""Which files of NAS-Bench-360 are in a folder, and what their hashes are.

python -m recraft_jax.data.nas360 --root=DIR --check [--tasks=NAME,...]

Prints a table: each file of each task, whether it is there, its size and SHA-256, and
where it is published. Of folders with many files it counts them, adds up their sizes
and hashes what `sha256sum` prints of all, sorted by path. The exit code is 0 if nothing
is missing, 1 if something is, 2 if the arguments are wrong.
"""

import pathlib
import sys
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table

from recraft_jax import cli, errors
from recraft_jax.data.nas360 import files

_WIDTH = 170  # where the output is no terminal: one line a file


def main(argv: Sequence[str]) -> int:
    """Check the folder that the arguments name; returns the exit code."""
    return cli.run(_check, argv)


def _check(argv: Sequence[str]) -> None:
    root, names = _arguments(argv)
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD)
    for heading in ("task", "file", "state", "bytes", "published", "sha256"):
        justify = "right" if heading == "bytes" else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    missing, sources = [], {}
    progress = rich.console.Console(stderr=True)
    for name in names:
        for file in files.tasks()[name]:
            sources.setdefault(file.source, []).append(file.path)
            with progress.status(f"{name}: {file.path}"):
                found = files.look(root, file)
            if not found.is_complete:
                missing.append(file.path)
            size = f"{found.num_bytes:,}" if found.num_files else ""
            row = (name, file.path, _state(file, found), size, file.published)
            table.add_row(*row, found.sha256)
    width = None if sys.stdout.isatty() else _WIDTH
    console = rich.console.Console(highlight=False, markup=False, width=width)
    console.print(table)
    for source, paths in sources.items():
        console.print(f"{', '.join(paths)}\n    {source}", soft_wrap=True)
    console.print(f"\n{files.NOTE}", soft_wrap=True)
    if missing:
        raise errors.RunError(f"{root}: missing or not complete: {', '.join(missing)}")


def _arguments(argv: Sequence[str]) -> tuple[pathlib.Path, list[str]]:
    parser = cli.Parser("data.nas360", __doc__)
    parser.add_argument("--root", required=True, type=pathlib.Path)
    parser.add_argument("--check", required=True, action="store_true")
    parser.add_argument("--tasks", default=",".join(files.tasks()))
    args = parser.parse_args(argv)
    if not args.root.is_dir():
        raise errors.InputError(f"--root={args.root}; allowed: a folder that exists")
    return args.root, cli.names("--tasks", args.tasks, list(files.tasks()))


def _state(file: files.File, found: files.Found) -> str:
    if not found.num_files:
        return "missing"
    if "*" not in file.path:
        return "present"
    if found.is_complete:
        return f"{found.num_files:,} files"
    return f"{found.num_files:,} of {file.least:,} files"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
