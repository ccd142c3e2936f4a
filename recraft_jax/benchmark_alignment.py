"""Benchmark of FA: value and gradient next to GeomLoss, and memory by row blocks."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from recraft_jax import measure, memory
from recraft_jax.losses import ot

_COSTS = {1: "|x - y|", 2: "1/2 |x - y|^2"}
_DIVERGENCES = {1: ot.wasserstein1, 2: ot.sinkhorn_divergence}
_SCALINGS = 0.5, 0.9  # of GeomLoss: its default, which is timed in turns, and a finer


def features(
    num: int, width: int, *, seed: int, tokens: int = 1, shift: float = 0.0
) -> Float[np.ndarray, "n d"]:
    """Draw points like hidden states: layer-normalised, with a decaying spectrum.

    Args:
      num: n, points.
      width: d; coordinate k has a standard deviation that falls like 1 / sqrt(k).
      seed: of the draw.
      tokens: the scale of a mean over so many independent tokens: 1 / sqrt(tokens).
      shift: moves the cloud, in standard deviations of each coordinate.
    """
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((num, width), dtype=np.float32) + np.float32(shift)
    x /= np.sqrt(np.arange(1, width + 1, dtype=np.float32))
    x -= x.mean(1, keepdims=True)
    x /= x.std(1, keepdims=True) * np.float32(tokens**0.5)
    return x


def value_and_grad(
    x: Float[Array, "n d"],
    y: Float[Array, "m d"],
    *,
    power: int,
    epsilon: float | None,
    self_x: float | None,
    threshold: float,
) -> tuple[tuple[Float[Array, ""], dict[str, Array]], Float[Array, "m d"]]:
    """Compute FA as a training step needs it, from scratch or with a cached self term.

    Args:
      x: Source features, fixed.
      y: Target features; the gradient is with respect to these.
      power: 1 for `ot.wasserstein1`, 2 for `ot.sinkhorn_divergence`.
      epsilon: Regularisation; None (power 1 only) is the default of `ot`.
      self_x: `ot.self_term` of x, or None to compute it here.
      threshold: Marginal error (l1) to reach.

    Returns:
      The value with its diagnostics, and the gradient.
    """
    loss = functools.partial(
        _DIVERGENCES[power], epsilon=epsilon, self_x=self_x, threshold=threshold
    )
    return jax.value_and_grad(loss, argnums=1, has_aux=True)(x, y)


def alignment(
    name: str,
    *,
    power: int,
    epsilon: float | None,
    tokens: int,
    repeats: int,
    sizes: tuple[int, int, int] = (5000, 128, 768),
) -> tuple[list[measure.Row], list[str]]:
    """Time FA and its gradient against GeomLoss, the source's self term cached.

    Our threshold is at most the marginal error that GeomLoss reaches, so that ours is
    never the looser of the two.

    Args:
      name: of the row.
      power: of the cost.
      epsilon: see `value_and_grad`.
      tokens: scale of the data, see `features`.
      repeats: turns of ours and theirs.
      sizes: n source points, m target points, width d.

    Returns:
      The row in a list, and lines that say what was compared.
    """
    n, m, d = sizes
    x = features(n, d, seed=0, tokens=tokens)
    y = features(m, d, seed=1, tokens=tokens, shift=0.3)
    source, target = jnp.asarray(x), jnp.asarray(y)
    given = epsilon
    if epsilon is None:
        epsilon = float(ot.wasserstein1(source, target)[1]["epsilon"])
    peers = [_geomloss(x, y, power, epsilon, scaling) for scaling in _SCALINGS]
    threshold = min([1e-3, *(peer["error"] for peer in peers if peer)])
    self_x, _ = ot.self_term(source, epsilon=epsilon, power=power, threshold=threshold)
    step = functools.partial(value_and_grad, power=power, threshold=threshold)
    cached = functools.partial(step, epsilon=epsilon, self_x=float(self_x))
    cold, warm = measure.compile_seconds(cached, source, target)
    ours = measure.caller(cached, source, target)
    full = functools.partial(step, epsilon=given, self_x=None)
    everything = measure.caller(full, source, target)

    call = peers[0] and peers[0]["call"]
    seconds, peer_seconds = measure.in_turns(ours, call, repeats)
    full_seconds, _ = measure.in_turns(everything, None, 1)
    (value, info), grad = ours()
    # Cost product and its gradient for the x-y and y-y pairs; exponentials not counted.
    flops = 2 * (2 * n + 3 * m) * m * d
    row = measure.row(
        name,
        seconds=seconds,
        peer="geomloss" if peers[0] else None,
        peer_seconds=peer_seconds,
        flops_share=flops / seconds / measure.roof("float32"),
        compile_cold=cold,
        compile_warm=warm,
    )
    notes = [
        f"{name}: {n:,} x {m:,} x {d}, cost {_COSTS[power]}, "
        f"epsilon {epsilon:.4g}{'' if given else ' (the default)'}, mean cost "
        f"{measure.pair_costs(x, y, power).mean():.3g}; data: layer-normalised normal "
        f"rows with spectrum 1/k, scale of a mean of {tokens} token(s)",
        f"  ours: value {float(value):.5f}, marginal error "
        f"{float(info['marginal_error']):.1e} (threshold {threshold:.1e}), "
        f"{int(info['iterations'])} iterations; {full_seconds:.3f} s with the source's "
        "self term" + ("" if given else " and the default epsilon"),
    ]
    for scaling, peer in zip(_SCALINGS, peers, strict=True):
        if peer:
            gap = np.linalg.norm(grad - peer["grad"]) / np.linalg.norm(grad)
            notes.append(
                f"  geomloss, scaling {scaling}: value {peer['value']:.5f}, marginal "
                f"error {peer['error']:.1e}, gradient {gap:.1e} from ours (relative); "
                f"one call {peer['seconds']:.2f} s, {peer['seconds'] / seconds:.0f} "
                "times ours"
            )
    return [row], notes


def serve(num: int, num_target: int, width: int) -> None:
    """Serve `step`, FA and its gradient, and `facts` of it for `measure.worker`.

    The cost is |x - y|, epsilon the default, the source's self term a constant.
    """
    memory.use_huge_pages()  # as `main` does
    jnp.zeros(1).block_until_ready()  # starts the backend
    baseline = measure.peak_bytes()
    x = jnp.asarray(features(num, width, seed=0))
    y = jnp.asarray(features(num_target, width, seed=1, shift=0.3))
    epsilon = 0.2  # about the default at 5,000 points, alike for all
    fn = functools.partial(
        value_and_grad, power=1, epsilon=epsilon, self_x=0.0, threshold=1e-3
    )
    call = measure.caller(fn, x, y, warm_up=False)

    def facts():
        return {"peak_bytes": measure.peak_bytes(), "baseline": baseline}

    measure.serve({"step": lambda: call() and None, "facts": facts})


def blocks(
    name: str, *, repeats: int, sizes: tuple[int, int, int] = (50000, 2048, 768)
) -> tuple[list[measure.Row], list[str]]:
    """Measure the peak memory of FA and its gradient by row blocks.

    In a process of its own. The source's self term is a constant there, 0: it changes
    neither the memory nor the gradient. One call whatever `repeats`: it takes long.
    """
    del repeats
    call = f"benchmark_alignment._measure_blocks({sizes!r})"
    got = measure.in_fresh_process(name, "benchmark_alignment", call)
    n, m, d = sizes
    row = measure.row(name, **{key: got[key] for key in measure.FIELDS if key in got})
    notes = [
        f"{name}: {n:,} x {m:,} x {d}, cost {_COSTS[1]}, epsilon {got['epsilon']}, "
        f"marginal error {got['marginal_error']:.1e}, {got['iterations']} iterations; "
        f"no peer. Its cost matrix would take {4 * n * m / 1e9:.2f} GB, its points "
        f"take {4 * (n + m) * d / 1e9:.2f} GB",
        f"  peak resident memory {got['baseline'] / 1e9:.2f} GB after the imports, "
        f"{got['with_data'] / 1e9:.2f} GB with data and program, "
        f"{got['peak_bytes'] / 1e9:.2f} GB after the call",
    ]
    return [row], notes


def _measure_blocks(sizes: tuple[int, int, int]) -> dict[str, Any]:
    """Do the work of `blocks` in this process, which should be a fresh one."""
    n, m, d = sizes
    jnp.zeros(1).block_until_ready()  # starts the backend
    baseline = measure.peak_bytes()
    # A large epsilon needs few iterations, and memory does not depend on their number.
    epsilon = 2.0
    step = functools.partial(
        value_and_grad, power=1, epsilon=epsilon, self_x=0.0, threshold=1e-3
    )
    x = jnp.asarray(features(n, d, seed=0))
    y = jnp.asarray(features(m, d, seed=1, shift=0.3))
    cold, warm = measure.compile_seconds(step, x, y)
    call = measure.caller(step, x, y, warm_up=False)
    with_data = measure.peak_bytes()
    seconds, ((_, info), _) = measure.timed(call)
    return {
        "seconds": seconds,
        "peak_bytes": measure.peak_bytes(),
        "compile_cold": cold,
        "compile_warm": warm,
        "baseline": baseline,
        "with_data": with_data,
        "epsilon": epsilon,
        "marginal_error": float(info["marginal_error"]),
        "iterations": int(info["iterations"]),
    }


def _geomloss(x, y, power, epsilon, scaling) -> dict[str, Any] | None:
    """Set up GeomLoss's value and gradient in y, and measure what it reaches.

    Returns:
      `call`, the `seconds`, `value` and `grad` of one, and `error`, the larger l1 error
      of the marginals of its plan; None if it is not installed.
    """
    if not measure.peer_versions():
        return None
    import geomloss
    import torch

    options = {
        "loss": "sinkhorn",
        "p": power,
        "blur": epsilon ** (1 / power),
        "scaling": scaling,
        "backend": "tensorized",
    }
    divergence = geomloss.SamplesLoss(debias=True, **options)
    source = torch.from_numpy(x)

    def call():
        target = torch.from_numpy(y).requires_grad_()
        value = divergence(source, target)
        value.backward()
        return value.item(), target.grad.numpy()

    # Its x-y potentials do not depend on `debias`, which would subtract the self ones.
    solver = geomloss.SamplesLoss(debias=False, potentials=True, **options)
    with torch.no_grad():
        f, g = (v.numpy().ravel() for v in solver(source, torch.from_numpy(y)))
    seconds, (value, grad) = measure.timed(call)
    cost = measure.pair_costs(x, y, power)
    error = measure.marginal_error(f, g, cost, epsilon)
    return dict(call=call, seconds=seconds, value=value, grad=grad, error=error)
