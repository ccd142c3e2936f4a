"""Orbax checkpoints of a run: save in the background, restore the newest that is whole.

Every checkpoint carries a fingerprint of its arrays, so that damage is seen even where
the file format does not notice it.
"""

import contextlib
import copy
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging
from orbax.checkpoint import v1 as ocp

from recraft_jax import errors, hosts, paths

# tensorstore reports a failed write as ValueError with the system's message in it.
_DISK_MESSAGES = (
    "No space left",
    "File too large",
    "Disk quota",
    "Read-only file system",
    "Permission denied",
    "Input/output error",
)


@contextlib.contextmanager
def open_dir(directory: paths.Path, keep: int) -> Iterator[ocp.training.Checkpointer]:
    """Open a folder of checkpoints, of which the newest `keep` stay, or all for 0.

    Leaving waits for the save under way, also when the run is failing.

    Raises:
      InputError: on leaving, that save could not be written.
    """
    policies = ocp.training
    kept = policies.preservation_policies
    checkpointer = ocp.training.Checkpointer(
        directory.absolute() if paths.is_local(directory) else directory,
        save_decision_policy=policies.save_decision_policies.FixedIntervalPolicy(1),
        preservation_policy=kept.LatestN(keep) if keep else kept.PreserveAll(),
        cleanup_tmp_directories=True,
    )
    try:
        yield checkpointer
    except BaseException as error:
        # The save under way waits for a process that is gone.
        if hosts.describe_loss(error) is None:
            with contextlib.suppress(Exception):  # the first error is the one to show
                checkpointer.close()
        raise
    try:
        checkpointer.close()
    except (OSError, ValueError) as error:
        raise _unwritable(checkpointer, "the last save", error) from error


def save(
    checkpointer: ocp.training.Checkpointer,
    step: int,
    arrays: dict[str, Any],
    record: dict[str, Any],
) -> None:
    """Start saving; returns once the arrays are copied and may be donated.

    Args:
      checkpointer: of `open_dir`.
      step: global step.
      arrays: named trees of arrays.
      record: plain values kept beside them, JSON.

    Raises:
      InputError: this save, or the one before it, could not be written.
    """
    # A copy: metadata is written in the background, while the caller goes on.
    metadata = {
        "fingerprint": int(fingerprint(arrays)),
        "record": copy.deepcopy(record),
    }
    try:
        checkpointer.save_checkpointables_async(
            step, arrays, custom_metadata=metadata, overwrite=True
        )
    except (OSError, ValueError) as error:
        raise _unwritable(checkpointer, f"step {step}", error) from error


def restore_latest(
    checkpointer: ocp.training.Checkpointer,
    abstract: Callable[[int], dict[str, Any]],
) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
    """Load the newest checkpoint that is whole; damaged ones are moved aside.

    Args:
      checkpointer: of `open_dir`.
      abstract: step to the trees of `ShapeDtypeStruct` (with shardings) saved there.

    Returns:
      Step, arrays and record, or None when there is none to load.
    """
    steps = sorted((c.step for c in checkpointer.checkpoints), reverse=True)
    for step in steps:
        try:
            metadata = checkpointer.checkpointables_metadata(step).custom_metadata
            expected, record = metadata["fingerprint"], metadata["record"]
            arrays = checkpointer.load_checkpointables(step, abstract(step))
            problem = None
        except Exception as error:  # damage shows as any of a dozen types
            problem = first_line(error)
        if all(hosts.gather(problem is None)):
            if int(fingerprint(arrays)) == expected:
                return step, arrays, record
            problem = "its values are not those that were saved"
        rest = [s for s in steps if s < step]
        directory = checkpointer.directory
        logging.warning(
            "checkpoint %s is damaged (%s); %s",
            directory / str(step),
            problem or "in another process",
            f"going back to step {rest[0]}" if rest else "starting anew",
        )
        if hosts.is_first():
            aside = directory.parent / f"damaged-{step}"
            if aside.exists():
                aside.rmtree()
            (directory / str(step)).rename(aside)
        hosts.wait(f"damaged/{step}")
    if steps:
        checkpointer.reload()
    return None


def steps(directory: pathlib.Path) -> list[int]:
    """Steps of the checkpoints in a folder, in order."""
    if not directory.is_dir():
        return []
    return sorted(int(p.name) for p in directory.iterdir() if p.name.isdigit())


def load(
    directory: pathlib.Path, step: int, abstract: Callable[[int], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Load one checkpoint, to look at; nothing in the folder changes.

    Args:
      directory: of `open_dir`.
      step: one of `steps`.
      abstract: as in `restore_latest`.

    Returns:
      Arrays and record.

    Raises:
      InputError: it is damaged.
    """
    path = directory.absolute() / str(step)
    try:
        metadata = ocp.checkpointables_metadata(path).custom_metadata
        arrays = ocp.load_checkpointables(path, abstract(step))
        if int(fingerprint(arrays)) != metadata["fingerprint"]:
            raise ValueError("its values are not those that were saved")
    except Exception as error:  # damage shows as any of a dozen types
        raise errors.InputError(
            f"checkpoint {path} cannot be used: {first_line(error)}; allowed: the "
            "folder of a run as it was written"
        ) from error
    return arrays, metadata["record"]


@jax.jit
def fingerprint(arrays: Any) -> jax.Array:
    """Sum the bits of every array, weighted by place; uint32, wraps around."""
    total = jnp.zeros((), jnp.uint32)
    for index, leaf in enumerate(jax.tree.leaves(arrays)):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        width = jnp.dtype(leaf.dtype).itemsize * 8
        bits = jax.lax.bitcast_convert_type(leaf, f"uint{width}").astype(jnp.uint32)
        place = 2 * jax.lax.iota(jnp.uint32, bits.size) + 1
        part = jnp.sum(bits.reshape(-1) * place, dtype=jnp.uint32)
        total += (2 * index + 1) * part
    return total


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type when it has none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _unwritable(checkpointer, what: str, error: Exception) -> Exception:
    """Turn a failed write into one line; anything else is a bug and stays as it is."""
    text = str(error)
    if not isinstance(error, OSError) and not any(m in text for m in _DISK_MESSAGES):
        return error
    return errors.InputError(
        f"cannot write the checkpoint of {what} to {checkpointer.directory}: "
        f"{first_line(error)}; earlier checkpoints are kept: free space or mend the "
        "folder, then run the same command again"
    )
