"""Where a result comes from: versions of libraries and of this code, settings."""

import json
import pathlib
import platform
import subprocess
from importlib import metadata
from typing import Any

import recraft_jax
from recraft_jax import errors, tree

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "ott-jax", "orbax-checkpoint", "numpy")


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    return {name: metadata.version(name) for name in _PACKAGES} | {
        "python": platform.python_version(),
        "recraft_jax": recraft_jax.__version__,
    }


def git_commit() -> str | None:
    """Commit of the checkout this code runs from; `+changes` when it is not clean."""
    root = pathlib.Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str:
        command = ["git", "-C", str(root), *args]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return done.stdout.strip()

    try:
        is_changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + ("+changes" if is_changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def check_same(path: pathlib.Path, card: pathlib.Path, asked: dict[str, Any]) -> None:
    """Refuse what was made with other settings, or by somebody else.

    Args:
      path: what is there.
      card: JSON beside it that says how it was made.
      asked: settings that must be the same.

    Raises:
      InputError: another setting, or no card.
    """
    try:
        made = json.loads(card.read_text())
    except (OSError, ValueError):
        raise errors.InputError(
            f"{path} exists and {card.name} does not say how it was made; allowed: "
            "another --out"
        ) from None
    found = tree.differences({k: made.get(k) for k in asked}, asked)
    if found:
        raise errors.InputError(
            f"{path} was made with other settings ({'; '.join(found)}); allowed: the "
            "same ones, or another --out"
        )
