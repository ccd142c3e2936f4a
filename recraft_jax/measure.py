"""How to measure: seconds in turns, compilation, a matmul roof, memory, the machine."""

import contextlib
import functools
import json
import os
import pathlib
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jaxtyping import Float

from recraft_jax import errors, provenance

FIELDS = (
    *("name", "dtype", "seconds", "peer", "peer_seconds", "ratio", "flops_share"),
    *("peak_bytes", "peer_peak_bytes", "compile_cold", "compile_warm"),
)
Row = dict[str, Any]

_PER_TURN = 3  # ours may be so much faster that one call per turn is mostly noise
_ROOF_SIZE = 2048
_COUNTED = 2  # calls of a turn, after one to warm up
_PAUSE = 0.5  # seconds between turns: idle threads of the other spin for a while
_MARK = "@measured "  # before an answer, among whatever else is printed


def row(name: str, **values: Any) -> Row:
    """Fill a row of `FIELDS`: the ratio from the two times, null where nothing is."""
    filled = dict.fromkeys(FIELDS) | {"name": name, "dtype": "float32"} | values
    if filled["peer_seconds"] is not None:
        filled["ratio"] = filled["seconds"] / filled["peer_seconds"]
    return filled


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds of a call, and its result."""
    start = time.perf_counter()
    out = call()
    return time.perf_counter() - start, out


def in_turns(
    ours: Callable, peer: Callable | None, turns: int, per_turn: int = _PER_TURN
) -> tuple[float, float | None]:
    """Take the medians of both, called in turns: a noisy machine is noisy for both."""
    times, peer_times = [], []
    for _ in range(turns):
        times += [timed(ours)[0] for _ in range(per_turn)]
        if peer:
            peer_times.append(timed(peer)[0])
    return statistics.median(times), statistics.median(peer_times) if peer else None


def caller(fn: Callable, *args: Any, warm_up: bool = True) -> Callable[[], Any]:
    """Compile `fn` for these arguments; the result waits until it is computed."""
    compiled = jax.jit(fn).lower(*args).compile()

    def call():
        return jax.block_until_ready(compiled(*args))

    if warm_up:
        call()
    return call


def compile_seconds(fn: Callable, *args: Any) -> tuple[float, float]:
    """Measure trace, lowering and compilation: nothing cached, then on a full cache."""
    options = {
        "jax_compilation_cache_dir": None,
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    with tempfile.TemporaryDirectory() as folder:
        options["jax_compilation_cache_dir"] = folder
        try:
            seconds = []
            for _ in range(2):
                _configure(options)
                jax.clear_caches()
                seconds.append(timed(lambda: jax.jit(fn).lower(*args).compile())[0])
        finally:
            _configure(before)
    return seconds[0], seconds[1]


def _configure(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # JAX opens the folder once and keeps it


@functools.cache
def roof(dtype: str) -> float:
    """Measure the operations per second of one large product, summed in float32."""
    a = jnp.ones((_ROOF_SIZE, _ROOF_SIZE), dtype)
    product = functools.partial(
        jnp.matmul, precision="highest", preferred_element_type=jnp.float32
    )
    call = caller(product, a, a)
    return 2 * _ROOF_SIZE**3 / min(timed(call)[0] for _ in range(5))


def peak_bytes() -> int:
    """Return the peak resident memory of this process.

    Linux hands a child the peak of its parent in `ru_maxrss`; VmHWM is its own.
    """
    status = pathlib.Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def in_fresh_process(name: str, module: str, call: str) -> dict[str, Any]:
    """Evaluate a call of a module of this package elsewhere, and read its dict.

    Args:
      name: of the piece of work, for the error.
      module: of `recraft_jax`.
      call: an expression with a dict of plain values.

    Raises:
      RunError: the process failed.
    """
    code = f"from recraft_jax import {module}; import json; print(json.dumps({call}))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise errors.RunError(f"{name}: the measuring process failed: {lines[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def serve(actions: Mapping[str, Callable[[], Any]]) -> None:
    """Do, in a process of `worker`, what it is asked for, until it is told to end.

    Args:
      actions: by name; each returns a plain value.
    """
    for line in sys.stdin:
        seconds, result = timed(actions[line.strip()])
        print(_MARK + json.dumps([seconds, result]), flush=True)


@contextlib.contextmanager
def worker(name: str, module: str, call: str) -> Iterator[Callable[[str], Any]]:
    """Start another Python process that serves actions.

    Two such processes take turns without sharing memory, threads or settings.

    Args:
      name: of the piece of work, for the error.
      module: of `recraft_jax`.
      call: an expression that ends in `serve`.

    Yields:
      A function from the name of an action to the seconds it took and its result.

    Raises:
      RunError: the process failed.
    """
    code = f"from recraft_jax import {module}; {call}"
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )

        def ask(action: str) -> tuple[float, Any]:
            with contextlib.suppress(BrokenPipeError):  # it has ended: read why
                process.stdin.write(f"{action}\n")
                process.stdin.flush()
            for line in process.stdout:
                if line.startswith(_MARK):
                    return tuple(json.loads(line.removeprefix(_MARK)))
            code = process.wait()
            log.seek(0)
            lines = log.read().strip().splitlines() or [f"exit code {code}"]
            raise errors.RunError(f"{name}: the measuring process failed: {lines[-1]}")

        try:
            yield ask
        finally:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            process.wait()
            process.stdout.close()


@contextlib.contextmanager
def workers(name: str, calls: Mapping[str, str]) -> Iterator[list[Callable]]:
    """Start a `worker` for each module and call, for `take_turns`."""
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(worker(name, module, call))
            for module, call in calls.items()
        ]


def take_turns(
    workers: Sequence[Callable[[str], Any]], action: str, turns: int
) -> list[float]:
    """Take the median seconds of an action of each worker, called in turns.

    A turn is a call that does not count and two that do: after idling for seconds the
    first is up to half slower, which no call within a run is.
    """
    times = [[] for _ in workers]
    for _ in range(turns):
        for ask, found in zip(workers, times, strict=True):
            time.sleep(_PAUSE)
            ask(action)
            found += [ask(action)[0] for _ in range(_COUNTED)]
    return [statistics.median(found) for found in times]


def pair_costs(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], power: int
) -> Float[np.ndarray, "n m"]:
    """Compute |x - y| (power 1) or its half square (2) in float64, to judge others."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    square = (x**2).sum(1)[:, None] + (y**2).sum(1) - 2 * x @ y.T
    square = np.maximum(square, 0)
    return np.sqrt(square) if power == 1 else square / 2


def marginal_error(
    f: Float[np.ndarray, " n"],
    g: Float[np.ndarray, " m"],
    cost: Float[np.ndarray, "n m"],
    epsilon: float,
) -> float:
    """Compute the larger l1 error of the marginals of exp((f + g - cost) / eps) / nm.

    In float64; each marginal has mass 1, uniformly.
    """
    plan = np.exp((f[:, None].astype(np.float64) + g - cost) / epsilon) / cost.size
    sums = [plan.sum(1 - axis) - 1 / cost.shape[axis] for axis in (0, 1)]
    return max(float(np.abs(s).sum()) for s in sums)


def peer_versions() -> dict[str, Any]:
    """Return what the peer columns depend on; empty if it is not installed."""
    try:
        import geomloss  # noqa: F401
        import torch
    except ImportError:
        return {}
    versions = {name: metadata.version(name) for name in ("geomloss", "transformers")}
    return {
        "torch": torch.__version__,
        **versions,
        "torch threads": torch.get_num_threads(),
    }


def machine(extra: Mapping[str, Any]) -> str:
    """Describe the processor, the cores this process may use, and the versions.

    Args:
      extra: what to list besides, by name.
    """
    model = platform.processor() or platform.machine()
    info = pathlib.Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text().splitlines()
        names = [s.split(":")[1].strip() for s in lines if s.startswith("model name")]
        model = names[0] if names else model
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count()
    versions = provenance.versions()
    shown = {name: versions[name] for name in ("python", "jax", "jaxlib", "ott-jax")}
    shown |= extra
    listed = ", ".join(f"{name} {version}" for name, version in shown.items())
    return (
        f"{model}, {cores} cores, {jax.default_backend()}; {listed}; "
        f"commit {provenance.git_commit() or 'unknown'}"
    )
