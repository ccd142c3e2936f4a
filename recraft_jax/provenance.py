"""Where a result comes from: versions of libraries and of this code."""

import pathlib
import platform
import subprocess
from importlib import metadata

import recraft_jax

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
