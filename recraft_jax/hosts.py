"""Several processes that are one run: they begin, stop and fail together.

Every process runs the same command. Only the first one writes and speaks; all enter
computations and checkpoints. A process that must end says why in the coordinator's
key-value store, where the others, which may be waiting for it in a collective, find it
within a second and end too.

With one process everything here is a no-op.
"""

import contextlib
import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, NoReturn

import jax
import numpy as np
from jax._src import distributed  # the only way to the key-value store; Orbax's too
from jax.experimental import multihost_utils

from recraft_jax import errors

HEARTBEAT_SECONDS = 30  # without a sign of life, until a process counts as dead
POLL_SECONDS = 0.5
LINGER_SECONDS = 2.0  # of a failing process: four looks of the others
AGAIN = "Run the same command again to resume"
LONG_SECONDS = 24 * 3600  # what others wait for may be a download or a generation
_FAILED = "recraft_jax/failed"
_calls = itertools.count()


class Place(NamedTuple):
    """Of a process among those of a run, as `start` takes it."""

    coordinator: str = ""
    num_processes: int | None = None
    process_id: int | None = None


def take_place(argv: Sequence[str]) -> tuple[Place | None, list[str]]:
    """Take `--multihost` and what belongs to it out of the arguments.

    Raises:
      InputError: values that are no numbers, or one of three without the others.
    """
    names = ("coordinator", "num_processes", "process_id")
    given, rest, is_several = {}, [], False
    for arg in argv:
        name, sign, value = arg.lstrip("-").partition("=")
        if arg in ("--multihost", "-multihost"):
            is_several = True
        elif arg.startswith("-") and sign and name in names:
            given[name] = value
        else:
            rest.append(arg)
    if not given and not is_several:
        return None, rest
    for name in names[1:]:
        if name in given and not given[name].isdecimal():
            allowed = "a whole number from 0 up"
            raise errors.InputError(f"--{name}={given[name]}; allowed: {allowed}")
    numbers = {name: int(given[name]) for name in names[1:] if name in given}
    missing = [f"--{name}" for name in names if name not in given]
    if not is_several:
        missing = ["--multihost"]
    if given and missing:
        raise errors.InputError(
            f"--{next(iter(given))} without {', '.join(missing)}; allowed: --multihost "
            "alone, or with all of --coordinator, --num_processes and --process_id"
        )
    if given and not numbers["process_id"] < numbers["num_processes"]:
        raise errors.InputError(
            f"--process_id={numbers['process_id']}; allowed: 0 to --num_processes - 1 "
            f"= {numbers['num_processes'] - 1}"
        )
    return Place(given.get("coordinator", ""), **numbers), rest


def start(
    coordinator: str = "",
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Join the other processes; must come before anything is computed.

    Args:
      coordinator: `HOST:PORT` of the first process; empty where the machine knows (TPU,
        SLURM, Open MPI, Kubernetes).
      num_processes: of the run; None where the machine knows.
      process_id: of this one, from 0; None where the machine knows.

    Raises:
      InputError: the others are not known or not there.
    """
    try:
        jax.distributed.initialize(
            coordinator or None,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except (ValueError, RuntimeError) as error:
        raise errors.InputError(
            f"--multihost: {str(error).splitlines()[0]}; allowed: on TPU, SLURM, Open "
            "MPI or Kubernetes no more, elsewhere --coordinator=HOST:PORT, "
            "--num_processes=N and --process_id=I, the same N and one I of 0 to N - 1 "
            "in each process, HOST that of process 0"
        ) from None
    threading.Thread(target=_watch, daemon=True).start()


def is_several() -> bool:
    """Whether this process has joined others."""
    return jax.distributed.is_initialized()


def index() -> int:
    """Number of this process, from 0; needs no device."""
    return distributed.global_state.process_id


def is_first() -> bool:
    """Whether this process writes and speaks; needs no device."""
    return index() == 0


def wait(name: str) -> None:
    """Wait until all processes are here.

    Args:
      name: of the place; each place is passed once.
    """
    client = distributed.global_state.client
    if client is not None:
        client.wait_at_barrier(f"recraft_jax/{name}", LONG_SECONDS * 1000)


@contextlib.contextmanager
def first_then_others(name: str):
    """Let the first process through alone, then the others.

    For what is made once and found by who comes later: one machine may be home to
    several processes, and each machine may have a disk of its own.
    """
    if not is_first():
        wait(name)
    yield
    if is_first():
        wait(name)


def from_first(make: Callable[[], bytes]) -> bytes:
    """Call `make` in the first process and return in each what it returned."""
    if not is_several():
        return make()
    found = np.frombuffer(make() if is_first() else b"", np.uint8)
    wait(f"from_first/{next(_calls)}")  # longer than a collective may
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(found))))
    whole = found if is_first() else np.zeros(size, np.uint8)
    return np.asarray(multihost_utils.broadcast_one_to_all(whole)).tobytes()


def check_same(value: str, what: str, allowed: str) -> None:
    """Refuse to go on, in all processes, where one has another value than the first.

    Raises:
      InputError: naming those that differ.
    """
    is_same = from_first(value.encode) == value.encode()
    others = [process for process, same in enumerate(gather(is_same)) if not same]
    if others:
        raise errors.InputError(
            f"process {others[0]} has another {what} than process 0; allowed: {allowed}"
        )


def gather(value: bool) -> list[bool]:
    """Values of all processes."""
    if not is_several():
        return [value]
    return multihost_utils.process_allgather(np.bool_(value)).ravel().tolist()


def describe_loss(error: BaseException) -> str | None:
    """Say that another process is gone, if that is why a computation failed."""
    if not is_several() or not isinstance(error, jax.errors.JaxRuntimeError):
        return None
    first = str(error).partition("\n")[0]
    signs = "closed by peer|[Cc]onnection|UNAVAILABLE|heartbeat|DEADLINE_EXCEEDED"
    is_loss = re.search(signs, first)
    return f"lost another process ({first}). {AGAIN}" if is_loss else None


def end(message: str, code: int) -> NoReturn:
    """End this process and all others, with one message and one exit code.

    Python's own way out would wait for the other processes, which wait for this one.
    What another process said earlier comes before `message`: it is the cause.
    """
    client = distributed.global_state.client
    with contextlib.suppress(Exception):  # another one failed first, or nobody is left
        client.key_value_set(_FAILED, f"{code} {index()} {message}")
    _leave(_first_failure() or (code, index(), message), linger=True)


def finish() -> None:
    """Leave after success, once all have succeeded."""
    if distributed.global_state.client is not None:
        wait("finish")
        jax.distributed.shutdown()


class Stop:
    """Whether SIGTERM asks to save and stop, at a step that all processes agree on.

    Use as a context manager. JAX's own handler passes the signal on to all processes.
    """

    def __enter__(self):
        """Take SIGTERM over, where JAX has not."""
        self._asked = False
        self._before = None
        is_main = threading.current_thread() is threading.main_thread()
        if distributed.global_state.client is None and is_main:
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_):
        """Give SIGTERM back."""
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *_):
        self._asked = True

    def is_due(self, step: int) -> bool:
        """Whether to save now; to be asked after every step."""
        return self._asked or multihost_utils.reached_preemption_sync_point(step)


def _first_failure() -> tuple[int, int, str] | None:
    """Exit code, process and message of the process that failed first."""
    try:
        found = distributed.global_state.client.key_value_try_get(_FAILED)
    except jax.errors.JaxRuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        return 1, 0, f"process 0 cannot be reached; it may have been killed. {AGAIN}"
    code, process, message = found.split(" ", 2)
    return int(code), int(process), message


def _watch() -> None:
    """End this process when another one failed."""
    while jax.distributed.is_initialized():
        time.sleep(POLL_SECONDS)
        failure = jax.distributed.is_initialized() and _first_failure()
        if failure and failure[1] != index():
            _leave(failure, linger=is_first())


def _leave(failure: tuple[int, int, str], *, linger: bool) -> NoReturn:
    """Show a failure, where it was and in the first process, and exit at once."""
    code, process, message = failure
    if is_first() or process == index() or message.endswith(AGAIN):
        where = f" (process {process})" if process else ""
        print(f"error: {message}{where}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    if linger:  # the store goes with the first process
        time.sleep(LINGER_SECONDS)
    os._exit(code)
