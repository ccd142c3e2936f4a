"""Images through a frozen body: pixels, units, slopes and the whole of stage 0."""

import logging
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.methods import image_tower, lipschitz, source

SIZE, PATCH = 8, 2  # 16 patches, merged in pairs to 8
D, E = 6, 5
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Images(NamedTuple):
    pixels: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]


class Toy:
    """A body whose tokens mix: patches, special tokens, pairs of patches merged."""

    def __init__(self, num_prefix):
        rng = np.random.default_rng(0)
        self.num_prefix = num_prefix
        self.params = {
            "patch": rng.normal(0, 0.3, (3 * PATCH**2, D)),
            "prefix": rng.normal(0, 1, (num_prefix, D)),
            "lift": rng.normal(0, 0.5, (D, E)),
            "merge": rng.normal(0, 0.5, (2 * D, E)),
            "mix": rng.normal(0, 0.5, (num_prefix + 8, num_prefix + 8)),
        }
        self.params = {k: v.astype(np.float32) for k, v in self.params.items()}
        self.num_traces = 0

    def embed(self, params, pixels):
        self.num_traces += 1
        b, side = len(pixels), SIZE // PATCH
        grid = pixels.reshape(b, side, PATCH, side, PATCH, 3).swapaxes(2, 3)
        patches = grid.reshape(b, side**2, -1) @ params["patch"]
        prefix = jnp.broadcast_to(params["prefix"], (b, self.num_prefix, D))
        return jnp.concatenate([prefix, patches], 1)

    def encode(self, params, tokens):
        special, patches = jnp.split(tokens, [self.num_prefix], axis=1)
        merged = patches.reshape(len(tokens), -1, 2 * D) @ params["merge"]
        hidden = jnp.concatenate([special @ params["lift"], merged], 1)
        return jnp.tanh(hidden + jnp.einsum("lm,bme->ble", params["mix"], hidden))

    def tower(self, images, **changes):
        settings = {"size": SIZE, "mean": MEAN, "std": STD} | changes
        return image_tower.make(
            images,
            self.params,
            self.embed,
            self.encode,
            num_prefix=self.num_prefix,
            **settings,
        )

    def tokens(self, images):
        return self.embed(
            self.params, image_tower.standardise(images.pixels, SIZE, MEAN, STD)
        )


def draw(num, side=SIZE, channels=3):
    rng = np.random.default_rng(1)
    pixels = rng.integers(256, size=(num, side, side, channels), dtype=np.uint8)
    return Images(pixels, rng.integers(3, size=num, dtype=np.int32), ("a", "b", "c"))


# ------------------------------------------------------------------------------ pixels
def test_pixels_are_scaled_then_standardised_by_channel():
    images = draw(2)
    got = image_tower.standardise(images.pixels, SIZE, MEAN, STD)
    want = (images.pixels / 255 - np.array(MEAN)) / np.array(STD)
    np.testing.assert_allclose(got, want, atol=1e-6)


def test_growing_is_bilinear_with_half_pixel_centres():
    """2 x 2 to 4 x 4: weights 1, 3/4, 1/4, 0 along each side, edges clamped."""
    pixels = np.array([[0, 60], [120, 240]], np.uint8)[None, :, :, None]
    got = 255 * image_tower.standardise(pixels, 4, (0, 0, 0), (1, 1, 1))
    want = [
        [0, 15, 45, 60],
        [30, 48.75, 86.25, 105],
        [90, 116.25, 168.75, 195],
        [120, 150, 210, 240],
    ]
    for channel in range(3):
        np.testing.assert_allclose(got[0, :, :, channel], want, atol=1e-3)


def test_shrinking_does_not_antialias():
    """4 to 2: each pixel is the mean of the two it lies between, and of no other."""
    pixels = np.broadcast_to(np.array([0, 40, 80, 240], np.uint8), (4, 4))
    got = 255 * image_tower.standardise(pixels[None, :, :, None], 2, (0,) * 3, (1,) * 3)
    np.testing.assert_allclose(got[0, :, :, 0], [[20, 160]] * 2, atol=1e-3)


def test_grey_is_three_equal_channels():
    grey = draw(3, side=5, channels=1)
    colour = grey._replace(pixels=np.repeat(grey.pixels, 3, axis=3))
    toy = Toy(1)
    for one, two in zip(
        toy.tower(grey).units(), toy.tower(colour).units(), strict=True
    ):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6), one, two
        )


# ------------------------------------------------------------------------------- units
@pytest.mark.parametrize("num_prefix", [0, 1])
def test_units_are_means_over_the_patches(num_prefix):
    toy, images = Toy(num_prefix), draw(7)
    tower = toy.tower(images, batch_size=4)
    pooled, units = tower.units()
    tokens = toy.tokens(images)
    hidden = np.asarray(toy.encode(toy.params, tokens))
    assert tokens.shape == (7, num_prefix + 16, D)
    assert hidden.shape == (7, num_prefix + 8, E)
    want = np.asarray(tokens)[:, num_prefix:].mean(1)
    np.testing.assert_allclose(pooled, want, atol=1e-5)
    np.testing.assert_allclose(units.states, hidden[:, num_prefix:].mean(1), atol=1e-5)
    np.testing.assert_array_equal(units.labels, images.labels)
    np.testing.assert_array_equal(units.sample, np.arange(7))
    np.testing.assert_array_equal(units.position, -1)
    assert (tower.names, tower.level, tower.num_samples) == (images.names, "image", 7)


def test_filling_of_the_last_batch_changes_nothing_and_compiles_nothing():
    toy, images = Toy(1), draw(7)
    kernel = np.random.default_rng(2).normal(size=(E, 3)).astype(np.float32)
    found = []
    for batch_size in (28, 12):  # 7 images in one batch, or three of them in fours
        tower = toy.tower(images, batch_size=batch_size)
        toy.num_traces = 0
        pooled, units = tower.units()
        grads = tower.gradients(kernel, units, pooled=True)
        some = tower.gradients(kernel, units.take(np.array([5, 2])), pooled=True)
        assert toy.num_traces == 2  # one program for units, one for slopes
        np.testing.assert_allclose(some, grads[[5, 2]], atol=1e-6)
        found.append((pooled, units, grads))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), *found)


@pytest.mark.parametrize(
    "change",
    [
        {"pixels": np.zeros((4, 8, 8, 2), np.uint8)},
        {"pixels": np.zeros((4, 8, 8), np.uint8)},
        {"pixels": np.zeros((4, 8, 8, 3), np.float32)},
        {"pixels": np.zeros((3, 8, 8, 3), np.uint8)},
        {"pixels": np.zeros((0, 8, 8, 3), np.uint8), "labels": np.zeros(0, np.int32)},
    ],
)
def test_other_pixels_are_refused(change):
    with pytest.raises(errors.InputError, match=r"allowed: uint8 \[n h w c\]"):
        Toy(0).tower(draw(4)._replace(**change))


# ----------------------------------------------------------------------------- slopes
@pytest.mark.parametrize("num_prefix", [0, 1])
def test_gradients_are_slopes_of_the_logits(num_prefix):
    """Central differences as all patch tokens move alike, and as one of them moves."""
    toy, images = Toy(num_prefix), draw(5)
    tower = toy.tower(images, batch_size=16)
    _, units = tower.units()
    rng = np.random.default_rng(3)
    kernel = rng.normal(size=(E, 3)).astype(np.float32)
    pooled = tower.gradients(kernel, units, pooled=True)
    spread = tower.gradients(kernel, units, pooled=False)
    assert pooled.shape == (5, D, 3) and spread.shape == (5, 16, D, 3)
    np.testing.assert_allclose(spread.sum(1), pooled, atol=1e-5)

    tokens = toy.tokens(images)

    def logits(shift):
        hidden = toy.encode(toy.params, tokens.at[:, num_prefix:].add(shift))
        return hidden[:, num_prefix:].mean(1) @ kernel

    way = rng.normal(size=D).astype(np.float32)
    way /= np.linalg.norm(way)
    one = np.zeros((16, 1), np.float32)
    one[11] = 1.0
    for grads, step in ((pooled, 3e-3 * way), (spread[:, 11], 1e-2 * one * way)):
        size = np.linalg.norm(step)
        want = (logits(step) - logits(-step)) / (2 * size)
        got = np.einsum("ndk,d->nk", grads, way)
        assert np.abs(want).max() > 20 * 2e-4
        np.testing.assert_allclose(got, want, atol=2e-4)


# ---------------------------------------------------------------------------- stage 0
SETTINGS = lipschitz.Settings(
    method="penalty",
    tau=0.5,
    delta=0.05,
    rho=100.0,
    u_space="pooled",
    norm_axis="sample",
    grad_divisor=1.0,
    num_samples=512,
)


@pytest.fixture(scope="module")
def coloured():
    """Noise with a cast of red, green or blue; every tenth label is drawn anew."""
    rng = np.random.default_rng(4)
    labels = rng.integers(3, size=480)
    cast = 60 * np.eye(3)[labels][:, None, None]
    pixels = np.clip(rng.normal(100, 30, (480, 6, 6, 3)) + cast, 0, 255)
    seen = np.where(rng.random(480) < 0.1, rng.integers(3, size=480), labels)
    names = ("blue", "green", "red")
    return Images(pixels.astype(np.uint8), seen.astype(np.int32), names)


def prepare(tower, **changes):
    settings = {"num_features": 100, "test_frac": 0.3, "seed": 0} | changes
    return source.prepare(tower, **({"recalibration": SETTINGS} | settings))


@pytest.fixture(scope="module")
def recalibrated(coloured):
    return prepare(Toy(1).tower(coloured))


def test_stage_zero_on_images(coloured):
    settings = SETTINGS._replace(method="none")
    plain = prepare(Toy(1).tower(coloured), recalibration=settings)
    assert plain.report["level"] == "image"
    assert plain.report["units"] == {"train": 336, "test": 144}
    assert plain.report["accuracy"] > plain.report["majority"] + 0.3
    assert plain.features.shape == (100, D) and plain.kernel.shape == (E, 3)
    assert plain.held_features.shape == (144, D)
    np.testing.assert_array_equal(plain.labels.sum(1), 1)


def test_recalibrated_head_is_flat_on_images_nobody_has_fitted(recalibrated):
    report = recalibrated.report["lipschitz"]
    assert report["before"]["slope"]["0.95"] > 2 * SETTINGS.tau
    assert report["quantile"] <= SETTINGS.tau * (1 + 1e-3)
    assert report["after"]["slope"]["0.95"] < 1.3 * SETTINGS.tau
    assert report["units"] == {"fit": 67, "test": 144}
    report = recalibrated.report
    assert report["accuracy"] > report["majority"] + 0.3


def test_slopes_of_the_recalibrated_loss_by_autodiff(coloured, recalibrated):
    """The quantile over the images it was recalibrated on, from the head alone."""
    toy = Toy(1)
    order = np.random.default_rng(0).permutation(480)
    rows = order[144 + round(0.8 * 336) :]  # neither held out nor fitted on
    own = Images(coloured.pixels[rows], coloured.labels[rows], coloured.names)
    tokens = toy.tokens(own)

    def loss(shift):
        hidden = toy.encode(toy.params, tokens.at[:, 1:].add(shift[:, None]))
        log_probs = source.predict(source.leaves(recalibrated), hidden[:, 1:].mean(1))
        return -log_probs[jnp.arange(len(rows)), own.labels].sum()

    norms = np.linalg.norm(jax.grad(loss)(jnp.zeros((len(rows), D))), axis=1)
    quantile = recalibrated.report["lipschitz"]["quantile"]
    assert np.quantile(norms, 0.95) == pytest.approx(quantile, rel=1e-3)
    assert quantile <= SETTINGS.tau * (1 + 1e-3)


def test_messages_speak_of_images(coloured, caplog):
    one = coloured._replace(labels=np.zeros(480, np.int32), names=("a",))
    plain = SETTINGS._replace(method="none")
    with pytest.raises(errors.InputError, match="480 images and classes"):
        prepare(Toy(0).tower(one), recalibration=plain)
    labels = (np.random.default_rng(5).random(480) < 0.1).astype(np.int32)
    rare = coloured._replace(labels=labels, names=("a", "b"))
    with caplog.at_level(logging.WARNING):
        prepare(Toy(0).tower(rare), recalibration=plain)
    assert "on held-out images" in caplog.text and "use more images" in caplog.text
