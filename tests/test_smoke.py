"""Every backbone family with every head, on inputs that fit no patch: do they learn?

A small step of gradient descent on all leaves lowers each task's loss by what the
gradient promises, and no leaf is left without a gradient.
"""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax.losses import task as losses
from recraft_jax.models import cross_modal, pretrained

GOLDEN = pathlib.Path(__file__).parent / "golden"
INPUTS = {"1-D": (29, 2), "2-D": (7, 10, 4)}
HEADS = ("pooled", "linear", "pool")  # `pooled` serves classes and labels
FAMILIES = {
    "bert": HEADS,
    "roberta": HEADS,
    "swin": ("pooled", "linear"),
    "swin_mim": ("pool",),  # the decoder of this Swin becomes the released head
    "vit": HEADS,
    "dinov2": HEADS,
}
NUM_CLASSES = 3
CLASSES = np.array([2, 0])
LABELS = np.float32([[1, 0, 1], [0, 0, 1]])
DESCENT = 1e-3  # of the loss: too little for curvature, far above rounding
NOTHING = 1e-6  # of the norm of all gradients
# Each program runs two or three times: compiling it must be fast, not running it.
QUICK = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(
    ("family", "head"), [(f, head) for f, heads in FAMILIES.items() for head in heads]
)
def test_one_step_lowers_the_loss(family, head, name):
    shape = INPUTS[name]
    body = pretrained.load(GOLDEN / family)
    target = None if head == "pooled" else (*shape[:-1], 2)
    model = cross_modal.make(
        body,
        x_shape=shape,
        y_shape=target,
        num_classes=NUM_CLASSES,
        patch=4,
        head="pool" if head == "pool" else "linear",
    )
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, *shape)).astype(np.float32)
    y = rng.normal(size=(2, *(target or ()))).astype(np.float32)

    def values(pred):
        """Loss of each task that the head serves."""
        if target:
            return [losses.relative_l2(pred, y).mean()]
        return [
            losses.cross_entropy(pred, CLASSES).mean(),
            losses.binary_cross_entropy(pred, LABELS).mean(),
        ]

    def loss(params, task):
        pred, _ = model.apply(params, x)
        return jnp.stack(values(pred))[task], pred

    init = jax.jit(model.init, compiler_options=QUICK)
    params = jax.device_get(init(jax.random.key(0)))
    step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=QUICK)
    # For text bodies the released head has no parameters.
    is_bare = head == "pool" and body.modality == "text"
    parts = {path.partition("/")[0] for path in params}
    assert parts == {"embedder", "body"} | (set() if is_bare else {"head"})
    for task in range(1 if target else 2):
        (before, pred), grads = jax.device_get(step(params, task))
        assert pred.shape == (2, *(target or (NUM_CLASSES,)))
        check_all_leaves_move(grads)
        rate = DESCENT * before / norm(*grads.values()) ** 2
        (after, _), _ = step({k: v - rate * grads[k] for k, v in params.items()}, task)
        np.testing.assert_allclose((before - after) / before, DESCENT, rtol=0.1)


def check_all_leaves_move(grads):
    """Each leaf, and where layers are stacked each layer, has a gradient."""
    total = norm(*grads.values())
    assert np.isfinite(total) and total > 0
    for path, grad in grads.items():
        is_stacked = "/layers/" in path or "/blocks/" in path
        sizes = [norm(part) for part in (grad if is_stacked else [grad])]
        if path.endswith("attention/key/bias"):
            # It adds the same to all scores of a query, which their soft-max ignores.
            assert max(sizes) < NOTHING * total, path
        else:
            assert min(sizes) > NOTHING * total, path


def norm(*arrays):
    return np.sqrt(sum(np.vdot(v, v) for v in arrays))
