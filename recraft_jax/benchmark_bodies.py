"""Benchmark of full-size backbones: training, the label term of stage 1, prediction.

The model is embedder, body and head of `models/cross_modal.py`. Weights are random:
neither the compiler nor the memory looks at them. Three works:

    train    mean squared error of a dense prediction, all leaves, Adam, no dropout
    fld      loss = FLD of a random source head, through the frozen body; Adam moves
             the embedder alone
    predict  the prediction of a batch of 64

`benchmark_torch.py` does the same in PyTorch.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from recraft_jax import measure, memory, mesh, phase, program, state, steps, tree
from recraft_jax.losses import distortion
from recraft_jax.models import bert, cross_modal, roberta, swin

FAMILIES: Mapping[str, tuple[Callable, Mapping[str, Any]]] = {
    "roberta_base": (
        roberta.make,
        {
            "vocab_size": 50265,
            "max_position_embeddings": 514,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
        },
    ),
    "swin_base": (
        swin.make,
        {
            "embed_dim": 128,
            "depths": (2, 2, 18, 2),
            "num_heads": (4, 8, 16, 32),
            "window_size": 7,
        },
    ),
    "minilm": (
        bert.make,
        {
            "vocab_size": 30522,
            "max_position_embeddings": 512,
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
        },
    ),
}
# A batch of the published settings (methods of Table 1): a series of 3,072 points in
# 128 tokens, a field of 128 x 128 points resized to 224 x 224 pixels; batch 4. MiniLM:
# 64 tokens, batch 32.
SIZES = {
    "roberta_base": {"x_shape": (3072, 1), "max_tokens": 128, "batch_size": 4},
    "swin_base": {"x_shape": (128, 128, 1), "image_size": 224, "batch_size": 4},
    "minilm": {"x_shape": (1536, 1), "max_tokens": 64, "batch_size": 32},
}
# FLD looks at a joint of labels, which a batch of 4 does not fill.
BATCH = {"train": None, "fld": 16, "predict": 64}
NUM_SOURCE, NUM_TARGET = 6, 10  # labels of the FLD step


class Step(NamedTuple):
    """A training step that is not compiled yet.

    Attributes:
      phase: its loss and what it trains.
      tx: its optimiser.
      state: at its start.
      x_shape: of a batch.
    """

    phase: phase.Phase
    tx: optax.GradientTransformation
    state: state.TrainState
    x_shape: tuple[int, ...]


def sizes_of(body: str, work: str) -> dict[str, Any]:
    """Sizes of a piece of work, those of `SIZES` with its batch."""
    batch = BATCH[work]
    return SIZES[body] | ({"batch_size": batch} if batch else {})


def make_model(
    body: str, sizes: Mapping[str, Any], config: Mapping[str, Any] | None, dtype: str
) -> cross_modal.CrossModal:
    """Build a model of random weights; `init` gives them.

    Args:
      body: of `FAMILIES`.
      sizes: `batch_size`, `x_shape` and other arguments of `cross_modal.make`.
      config: of the backbone, in place of the full-size one.
      dtype: of its products.
    """
    make, full = FAMILIES[body]
    given = {k: v for k, v in sizes.items() if k not in ("batch_size", "x_shape")}
    shape = tuple(sizes["x_shape"])
    made = make(config or full, jnp.dtype(dtype))
    made = made._replace(params=jax.jit(made.init)(jax.random.key(0)))
    return cross_modal.make(made, x_shape=shape, y_shape=shape, num_classes=0, **given)


def make_step(
    body: str,
    sizes: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
    *,
    dtype: str = "float32",
    work: str = "train",
) -> Step:
    """Lay out the step of `train` or `fld`; arguments are those of `make_model`."""
    model = make_model(body, sizes, config, dtype)
    params = model.init(jax.random.key(1))
    model = model._replace(init=None)
    batch_size = sizes["batch_size"]

    def fit_loss(params, stats, batch, key, step):
        del key, step
        pred, _ = model.apply(params, batch["x"])
        return jnp.mean(jnp.square(pred - batch["x"])), (stats, {})

    def label_loss(params, stats, batch, key, step):
        del key, step
        _, out = model.apply(params, batch["x"])
        logits = out["hidden"].mean(1) @ params["source/kernel"]
        targets = jax.nn.one_hot(jnp.arange(batch_size) % NUM_TARGET, NUM_TARGET)
        joint = distortion.joint(jax.nn.softmax(logits), targets)
        return distortion.target_given_source(joint), (stats, {})

    if work == "train":
        loss, trained, stage = fit_loss, (".*",), "fit"
    else:
        loss, trained, stage = label_loss, ("embedder/.*",), "align"
        _, out = jax.eval_shape(model.apply, params, jnp.zeros((1, *sizes["x_shape"])))
        shape = (out["hidden"].shape[-1], NUM_SOURCE)
        params["source/kernel"] = 0.1 * jax.random.normal(jax.random.key(3), shape)
    made = phase.Phase(work, stage, loss, trained, 1, None, "shuffled", batch_size)
    tx = optax.adam(1e-4)
    start = state.start_phase(params, {}, tx, made.trainable, step=0, seed=0)
    return Step(made, tx, start, (batch_size, *sizes["x_shape"]))


def serve(
    body: str,
    work: str,
    dtype: str,
    sizes: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
) -> None:
    """Serve `step` and `facts` of a piece of work, for `measure.worker`.

    `facts` are `params` (values trained, or used to predict), `flops` of a step,
    `peak_bytes` and `baseline` (that before anything was made), and `compile_cold` and
    `compile_warm`.
    """
    memory.use_huge_pages()  # as `main` does
    jnp.zeros(1).block_until_ready()  # starts the backend
    baseline = measure.peak_bytes()
    devices = mesh.make()
    if work == "predict":
        model = make_model(body, sizes, config, dtype)
        params = current = model.init(jax.random.key(1))
        model = model._replace(init=None)
        shape = (sizes["batch_size"], *sizes["x_shape"])
        fn = steps.make_eval_step(
            lambda params, batch: {"pred": model.apply(params, batch["x"])[0]},
            mesh=devices,
        )
    else:
        made = make_step(body, sizes, config, dtype=dtype, work=work)
        current, shape = made.state, made.x_shape
        params, _ = tree.split(current.params, made.phase.trainable)
        fn = steps.make_train_step(made.phase, made.tx, start=0, mesh=devices)
    num_params = sum(leaf.size for leaf in params.values())
    del params
    x = jax.random.normal(jax.random.key(2), shape)
    batch = {"x": jax.device_put(x, mesh.split(devices))}
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), current
    )
    compiled = fn.lower(current, batch).compile()
    flops = program.work(compiled).flops
    memory.give_back()

    def step():
        nonlocal current
        out = jax.block_until_ready(compiled(current, batch))
        if work != "predict":
            current, measured = out
            if not jnp.isfinite(measured["loss"]):
                raise ValueError(f"{body}: the loss is {measured['loss']}")

    def facts():
        peak = measure.peak_bytes()
        cold, warm = measure.compile_seconds(fn, abstract, batch)
        return {
            "params": num_params,
            "flops": flops,
            "peak_bytes": peak,
            "baseline": baseline,
            "compile_cold": cold,
            "compile_warm": warm,
        }

    measure.serve({"step": step, "facts": facts})


def piece(
    name: str,
    *,
    repeats: int,
    body: str,
    work: str,
    sizes: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[list[measure.Row], list[str]]:
    """Measure a piece of work in float32 and bfloat16, each next to PyTorch.

    Args:
      name: of the rows.
      repeats: turns.
      body: of `FAMILIES`.
      work: `train`, `fld` or `predict`.
      sizes: in place of `sizes_of`.
      config: of the backbone, in place of the full-size one.
    """
    sizes = dict(sizes or sizes_of(body, work))
    full = dict(config or FAMILIES[body][1])
    rows, notes = [], []
    for dtype in ("float32", "bfloat16"):
        given = f"{body!r}, {work!r}, {dtype!r}, {sizes!r}, {full!r}"
        calls = {"benchmark_bodies": f"benchmark_bodies.serve({given})"}
        if measure.peer_versions():
            calls["benchmark_torch"] = f"benchmark_torch.serve({given})"
        with measure.workers(name, calls) as asks:
            seconds, *peer_seconds = measure.take_turns(asks, "step", repeats)
            found, *peer_found = [ask("facts")[1] for ask in asks]
        rows.append(
            measure.row(
                name,
                dtype=dtype,
                seconds=seconds,
                peer="torch" if peer_found else None,
                peer_seconds=peer_seconds[0] if peer_found else None,
                flops_share=found["flops"] / seconds / measure.roof(dtype),
                peak_bytes=found["peak_bytes"],
                peer_peak_bytes=peer_found[0]["peak_bytes"] if peer_found else None,
                compile_cold=found["compile_cold"],
                compile_warm=found["compile_warm"],
            )
        )
        notes.append(
            f"{name}, {dtype}: {work} of embedder, body and head, {found['params']:,} "
            f"values, random weights, {sizes}, {found['flops'] / 1e9:,.0f} GFLOP of "
            f"products; {found['baseline'] / 1e9:.2f} GB of the peak after the imports"
        )
        if peer_found and work == "train" and body != "swin_base":
            call = f"benchmark_torch.serve({given}, tuned=True)"
            with measure.worker(name, "benchmark_torch", call) as ask:
                (tuned,) = measure.take_turns([ask], "step", repeats)
            notes.append(
                f"  torch with eager attention and fused Adam: {tuned:.3f} s, ours "
                f"{seconds / tuned:.2f} of it"
            )
    return rows, notes
