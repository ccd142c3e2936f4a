"""Embedder, body and head joined: what is borrowed, and that it does what it did."""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.models import cross_modal, patches, pretrained

GOLDEN = pathlib.Path(__file__).parent / "golden"
IMAGE_BODIES = ("swin", "swin_mim", "swin_odd", "vit", "dinov2")

SHAPES = {
    "1-D": ((12, 2), 4),
    "1-D with a rest": ((13, 2), 4),
    "2-D": ((8, 6, 3), 2),
    "2-D with rests": ((7, 9, 1), 4),
}


@pytest.fixture
def key():
    return jax.random.key(0, impl="unsafe_rbg")  # compiles in half the time


@pytest.fixture(scope="module")
def body():
    return pretrained.load(GOLDEN / "bert")


@pytest.fixture(scope="module")
def image_bodies():
    return {name: pretrained.load(GOLDEN / name) for name in IMAGE_BODIES}


def plain(body):
    """The body with an encoder that costs nothing and keeps tokens apart."""
    side = math.ceil(body.image_size / max(body.stride, 1))
    count = side**2 + body.num_prefix if side else None

    def encode(params, tokens):
        wide = jnp.tile(tokens, (1, 1, body.hidden_width // body.width))
        return 2 * wide[:, :count]

    return body._replace(encode=encode)


def noise(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", SHAPES)
def test_dense_prediction_has_the_shape_of_the_target(body, key, name):
    shape, patch = SHAPES[name]
    target = (*shape[:-1], 5)
    model = cross_modal.make(
        body, x_shape=shape, y_shape=target, num_classes=0, patch=patch
    )
    params = jax.eval_shape(model.init, key)
    pred, out = jax.eval_shape(model.apply, params, jnp.ones((3, *shape)))
    assert pred.shape == (3, *target)
    assert out["tokens"].shape == out["hidden"].shape


def test_pooled_prediction_is_the_head_of_the_mean_token(body, key):
    shape, patch = SHAPES["2-D with rests"]
    model = cross_modal.make(
        plain(body), x_shape=shape, y_shape=None, num_classes=7, patch=patch
    )
    params = model.init(key)
    x = jax.random.normal(jax.random.key(5), (3, *shape))
    pred, out = model.apply(params, x)
    by_hand = out["hidden"].mean(1) @ params["head/out/kernel"]
    np.testing.assert_allclose(pred, by_hand, atol=1e-5)


def test_embedder_starts_from_the_norm_and_positions_of_the_backbone(body, key):
    model = cross_modal.make(
        body, x_shape=(12, 2), y_shape=None, num_classes=3, patch=4
    )
    params = model.init(key)
    native = body.params
    np.testing.assert_array_equal(
        params["embedder/position"], native["embeddings/position/embedding"][:3]
    )
    np.testing.assert_array_equal(
        params["embedder/norm/scale"], native["embeddings/norm/scale"]
    )
    np.testing.assert_array_equal(
        params["embedder/norm/bias"], native["embeddings/norm/bias"]
    )
    assert not any("word" in path for path in params)


def test_tokens_are_normalised_then_shifted_by_position(body, key):
    model = cross_modal.make(
        body, x_shape=(12, 2), y_shape=None, num_classes=3, patch=4
    )
    params = model.init(key)
    x = jax.random.normal(jax.random.key(5), (2, 12, 2))
    _, out = model.apply(params, x)
    by_hand = np.asarray(x).reshape(2, 3, 8) @ np.asarray(
        params["embedder/patch/kernel"]
    )
    by_hand = by_hand - by_hand.mean(-1, keepdims=True)
    by_hand = by_hand / by_hand.std(-1, keepdims=True)
    by_hand = by_hand * params["embedder/norm/scale"] + params["embedder/norm/bias"]
    np.testing.assert_allclose(
        out["tokens"], by_hand + params["embedder/position"], atol=1e-5
    )
    hidden = body.encode(body.params, out["tokens"])
    np.testing.assert_allclose(out["hidden"], hidden, atol=1e-5)


def image_model(body, channels, **options):
    return cross_modal.make(
        plain(body), x_shape=(9, 13, channels), y_shape=None, num_classes=2, **options
    )


def embedded(body, key, x, **options):
    """What the embedder makes of `x`; what belongs to no patch goes no further."""
    seen = []
    spy = body._replace(encode=lambda _, tokens: seen.append(tokens) or 2 * tokens)
    model = cross_modal.make(
        spy, x_shape=x.shape[1:], y_shape=None, num_classes=2, **options
    )
    params = model.init(key)
    pred, out = model.apply(params, x)
    patch_tokens = seen[-1][:, body.num_prefix :]
    np.testing.assert_array_equal(out["tokens"], patch_tokens)
    np.testing.assert_array_equal(out["hidden"], 2 * patch_tokens)
    by_hand = 2 * patch_tokens.mean(1) @ params["head/out/kernel"]
    np.testing.assert_allclose(pred, by_hand, atol=1e-5)
    return seen[-1]


@pytest.mark.parametrize("name", ("swin", "vit", "dinov2"))
def test_embedder_gives_the_tokens_of_the_body(image_bodies, key, name):
    """Bit by bit, on images of the body's own kind: all that it lends is in place."""
    body = image_bodies[name]
    x = noise(2, body.image_size, body.image_size, body.config["num_channels"])
    tokens = embedded(body, key, x)
    np.testing.assert_array_equal(tokens, body.embed(body.params, x))


@pytest.mark.parametrize("name", ("swin_odd", "dinov2"))
def test_embedder_resizes_as_said_and_positions_follow(image_bodies, key, name):
    body = image_bodies[name]
    size = body.image_size + 2 * body.patch
    x = noise(2, 20, 91, 3)  # one side grows, the other shrinks
    square = patches.resize(jnp.asarray(x), (size, size))
    np.testing.assert_array_equal(
        embedded(body, key, x, image_size=size), body.embed(body.params, square)
    )


def test_series_for_an_image_body_is_folded_first(image_bodies, key):
    body = image_bodies["vit"]
    x = noise(2, 150, 3)
    image = np.zeros((2, 12 * 13, 3), np.float32)
    image[:, :150] = x
    square = patches.resize(jnp.asarray(image.reshape(2, 12, 13, 3)), (24, 24))
    np.testing.assert_array_equal(
        embedded(body, key, x), body.embed(body.params, square)
    )


@pytest.mark.parametrize("channels", [1, 4])  # of 3, see above
def test_patch_map_is_repeated_over_the_channels_in_turn(image_bodies, key, channels):
    body = image_bodies["swin"]
    native = body.params["embeddings/patch/kernel"].reshape(4, 4, 3, body.width)
    params = image_model(body, channels).init(key)
    kernel = params["embedder/patch/kernel"].reshape(4, 4, channels, body.width)
    for channel in range(channels):
        np.testing.assert_array_equal(
            kernel[:, :, channel], native[:, :, [0, 1, 2, 0][channel]]
        )
    np.testing.assert_array_equal(
        params["embedder/patch/bias"], body.params["embeddings/patch/bias"]
    )


@pytest.mark.parametrize("init", ["xavier", "normal"])
def test_other_starts_draw_the_patch_map_and_only_normal_the_norm(
    image_bodies, key, init
):
    body = image_bodies["swin_odd"]
    params = image_model(body, 3, init=init).init(key)
    lent = body.lend(body.params, (11, 11))
    kernel = np.asarray(params["embedder/patch/kernel"])
    bound = math.sqrt(2) * math.sqrt(6 / (16 * 3 + 16 * 8))
    deviation = bound / math.sqrt(3) if init == "xavier" else 0.02
    assert kernel.std() == pytest.approx(deviation, rel=0.1)
    np.testing.assert_array_equal(params["embedder/patch/bias"], 0)
    np.testing.assert_array_equal(params["embedder/position"], lent["position"])
    norm = {"scale": 1, "bias": 0}
    for part, fresh in norm.items():
        want = fresh if init == "normal" else lent[f"norm/{part}"]
        np.testing.assert_array_equal(params[f"embedder/norm/{part}"], want)
        assert np.any(lent[f"norm/{part}"] != fresh)


def test_text_body_lends_no_patch_map(body, key):
    model = cross_modal.make(
        body, x_shape=(12, 2), y_shape=None, num_classes=3, patch=4
    )
    kernel = np.abs(model.init(key)["embedder/patch/kernel"])
    bound = math.sqrt(2) * math.sqrt(6 / (4 * 2 + 4 * 32))
    assert 0.97 * bound < kernel.max() <= bound


def pooled(image, rows, columns):
    """AdaptiveAvgPool2d of `[b h w]`, as PyTorch documents it."""
    _, h, w = image.shape
    out = np.zeros((len(image), rows, columns))
    for i, j in np.ndindex(rows, columns):
        top, bottom = i * h // rows, -(-(i + 1) * h // rows)
        left, right = j * w // columns, -(-(j + 1) * w // columns)
        out[:, i, j] = image[:, top:bottom, left:right].mean((1, 2))
    return out


def test_pool_head_is_the_decoder_of_the_checkpoint(image_bodies, key):
    """Its three channels averaged to one and pooled to the grid of the target."""
    body, params = plain(image_bodies["swin_mim"]), None
    for x_shape, grid in (((20, 12, 1), (20, 12)), ((150, 1), (12, 13))):
        model = cross_modal.make(
            body, x_shape=x_shape, y_shape=x_shape, num_classes=0, head="pool"
        )
        params = params or model.init(key)  # of equal shapes for a series
        for leaf in ("kernel", "bias"):
            np.testing.assert_array_equal(
                params[f"head/out/{leaf}"], body.params[f"decoder/out/{leaf}"]
            )
        pred, out = model.apply(params, noise(2, *x_shape))
        image = np.asarray(body.decode(body.params, out["hidden"])).mean(-1)
        want = pooled(image, *grid).reshape(2, -1)[:, : math.prod(x_shape)]
        np.testing.assert_allclose(pred.reshape(2, -1), want, atol=1e-5)


def test_linear_head_is_drawn_and_not_borrowed(image_bodies, key):
    body = plain(image_bodies["swin_mim"])
    model = cross_modal.make(body, x_shape=(8, 8, 3), y_shape=(8, 8, 3), num_classes=0)
    kernel = np.asarray(model.init(key)["head/out/kernel"])
    assert kernel.shape == body.params["decoder/out/kernel"].shape
    assert 0.039 < np.abs(kernel).max() <= 0.04


@pytest.mark.parametrize("head", ["linear", "pool"])
@pytest.mark.parametrize("name", ("swin_odd", "dinov2"))
def test_dense_prediction_of_an_image_body_has_the_shape_of_the_target(
    image_bodies, name, head
):
    for x_shape in ((7, 30, 2), (50, 1)):
        model = cross_modal.make(
            plain(image_bodies[name]),
            x_shape=x_shape,
            y_shape=(*x_shape[:-1], 5),
            num_classes=0,
            head=head,
        )
        params = jax.eval_shape(model.init, jax.random.key(1))
        pred, _ = jax.eval_shape(model.apply, params, jnp.zeros((3, *x_shape)))
        assert pred.shape == (3, *x_shape[:-1], 5)


@pytest.mark.parametrize(
    ("x_shape", "max_tokens", "patch", "tokens"),
    [
        ((1000, 1), 40, 25, 40),
        ((1000, 1), 39, 40, 25),
        ((37, 2), 40, 1, 37),
        ((41, 2), 40, 41, 1),
        ((12, 20, 1), 16, 4, 15),
        ((12, 20, 1), 14, 5, 12),
        ((3, 40, 1), 2, 20, 2),
    ],
)
def test_patch_is_chosen_by_the_number_of_tokens(
    body, key, x_shape, max_tokens, patch, tokens
):
    """1-D: the smallest divisor of the length; 2-D: the smallest patch that will do."""
    model = cross_modal.make(
        body, x_shape=x_shape, y_shape=None, num_classes=2, max_tokens=max_tokens
    )
    shapes = jax.eval_shape(model.init, key)
    assert shapes["embedder/position"].shape == (tokens, 32)
    points = patch ** (len(x_shape) - 1) * x_shape[-1]
    assert shapes["embedder/patch/kernel"].shape == (points, 32)


SERIES = {"x_shape": (12, 2), "y_shape": None}
IMAGE = {"x_shape": (12, 12, 2), "y_shape": None}


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("bert", SERIES | {"patch": -1}, "allowed: 1 to 12"),
        ("bert", SERIES | {"patch": 13}, "allowed: 1 to 12"),
        ("bert", SERIES | {"max_tokens": 0}, "max_tokens = 0; allowed: 1 to 40"),
        ("bert", IMAGE | {"patch": 1}, "144 tokens .* 40 positions"),
        ("bert", IMAGE | {"max_tokens": 144}, "40 positions; allowed: a larger patch"),
        ("bert", SERIES | {"y_shape": (6, 1)}, "not on the grid"),
        ("bert", SERIES | {"init": "zeros"}, "'zeros'; allowed: pretrained, xavier"),
        ("swin", IMAGE | {"head": "mlp"}, "head.kind = 'mlp'; allowed: linear, pool"),
        ("swin", IMAGE | {"x_shape": (4, 4, 4, 1)}, r"allowed: \[n c\] or \[h w c\]"),
        ("bert", SERIES | {"x_shape": (4,)}, r"allowed: \[n c\] or \[h w c\]"),
        ("swin", IMAGE | {"image_size": 34}, "= 34; allowed: multiples of 4"),
        ("dinov2", IMAGE | {"image_size": -14}, "= -14; allowed: multiples of 14"),
        ("vit", SERIES | {"image_size": 4}, "= 4; allowed: multiples of 6"),
    ],
)
def test_impossible_options_are_refused(body, image_bodies, name, options, message):
    bodies = {"bert": body} | image_bodies
    with pytest.raises(errors.InputError, match=message) as info:
        cross_modal.make(bodies[name], num_classes=3, **options)
    assert "\n" not in str(info.value)


@pytest.mark.parametrize("name", ["bert", "swin", "dinov2"])
def test_parts_compose_to_the_whole(body, image_bodies, key, name):
    chosen = ({"bert": body} | image_bodies)[name]
    size = {"bert": {"patch": 4}, "swin": {}, "dinov2": {}}[name]
    model = cross_modal.make(
        chosen, x_shape=(12, 12, 1), y_shape=None, num_classes=3, **size
    )
    params = model.init(key)
    x = jax.random.normal(jax.random.key(1), (2, 12, 12, 1))
    pred, out = model.apply(params, x)
    tokens = model.embed(params, x)
    hidden = model.encode(params, tokens)
    assert tokens.shape == (2, model.num_tokens, chosen.width)
    np.testing.assert_array_equal(tokens, out["tokens"])
    np.testing.assert_allclose(hidden, out["hidden"], atol=1e-5)
    again, _ = model.forward_from_tokens(params, tokens)
    np.testing.assert_allclose(again, pred, atol=1e-5)


def test_tokens_behind_the_mask_change_nothing_before_it(body, key):
    model = cross_modal.make(
        body, x_shape=(12, 1), y_shape=None, num_classes=3, patch=4
    )
    params = model.init(key)
    tokens = jax.random.normal(jax.random.key(1), (2, 5, body.width))
    mask = np.array([[True] * 3 + [False] * 2, [True] * 5])
    hidden = model.encode(params, tokens, mask)
    alone = model.encode(params, tokens[:1, :3])
    np.testing.assert_allclose(hidden[:1, :3], alone, atol=1e-5)
    whole = model.encode(params, tokens)
    np.testing.assert_allclose(hidden[1], whole[1], atol=1e-5)
    assert np.abs(hidden[0, :3] - whole[0, :3]).max() > 1e-3
