"""A task from a scientist's own arrays: what is inferred, splits, bad data."""

import h5py
import hypothesis
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import strategies as st
from pyarrow import parquet

from recraft_jax import errors, metrics
from recraft_jax.data import (
    arrays_file,
    custom,
    custom_labels,
    custom_rules,
    custom_split,
    rows,
    tasks,
)
from recraft_jax.losses import task as task_losses


def noise(*shape):
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def facts(x, y, **options):
    return custom.from_arrays(x, y, **options)[0]


def load(source, found, **changes):
    options = {"protocol": "corrected", "val_frac": 0.1, "split_seed": 0}
    return custom.load(source, found, **(options | changes))


def split_arrays(x, y, changes=None, **options):
    found, source = custom.from_arrays(x, y, **options)
    return load(source, found, **(changes or {}))


def said(fn, *args, **options):
    with pytest.raises(errors.InputError) as info:
        fn(*args, **options)
    assert "\n" not in str(info.value)
    return str(info.value)


def save(folder, **arrays):
    np.savez(folder / "a.npz", **arrays)
    return folder / "a.npz"


def table(folder, text):
    (folder / "t.csv").write_text(text)
    return folder / "t.csv"


# Shapes and channels.


@pytest.mark.parametrize(
    ("each", "shape", "axis"),
    [
        ((), (1, 1), "none"),
        ((7,), (7, 1), "none"),
        ((32, 12), (32, 12), "last"),
        ((17, 16), (17, 16), "last"),
        ((18, 17), (18, 17, 1), "none"),
        ((32, 20), (32, 20), "last"),
        ((36, 24), (36, 24), "last"),
        ((35, 24), (35, 24, 1), "none"),  # less than half as long again
        ((50, 25), (50, 25, 1), "none"),
        ((3, 12), (12, 3), "first"),
        ((3, 11), (3, 11, 1), "none"),  # less than four times as long
        ((8, 8), (8, 8, 1), "none"),
        ((28, 28), (28, 28, 1), "none"),
        ((32, 32, 3), (32, 32, 3), "last"),
        ((3, 32, 32), (32, 32, 3), "first"),
        ((3, 32, 3), (3, 32, 3), "last"),  # a tie
        ((4, 32, 3), (4, 32, 3), "last"),
        ((3, 32, 4), (32, 4, 3), "first"),
        ((20, 30, 16), (20, 30, 16), "last"),
    ],
)
def test_layout_of_samples(each, shape, axis):
    assert custom_rules.layout((5, *each), "auto", "f") == (shape, axis)


@pytest.mark.parametrize(
    ("each", "channels", "shape"),
    [
        ((8, 9), "last", (8, 9)),
        ((8, 9), "first", (9, 8)),
        ((32, 2), "none", (32, 2, 1)),
        ((40, 50, 60), "last", (40, 50, 60)),
        ((40, 50, 60), "first", (50, 60, 40)),
        ((7,), "none", (7, 1)),
    ],
)
def test_channels_can_be_said(each, channels, shape):
    assert custom_rules.layout((5, *each), channels, "f") == (shape, channels)


@pytest.mark.parametrize(
    ("each", "channels", "message"),
    [
        (
            (2, 3, 4, 5),
            "auto",
            "f: x has shape (n, 2, 3, 4, 5); allowed: (n, features), (n, points, "
            "channels), (n, height, width) and (n, height, width, channels)",
        ),
        (
            (40, 50, 60),
            "auto",
            "f: x has shape (n, 40, 50, 60), in which no axis is known to be channels; "
            "allowed: data.channels=first or last",
        ),
        (
            (4, 5, 6),
            "none",
            "f: x has shape (n, 4, 5, 6), in which no axis is known to be channels; "
            "allowed: data.channels=first or last",
        ),
        (
            (4,),
            "last",
            "f: x has shape (n, 4), without an axis for channels; allowed: "
            "data.channels=none or auto",
        ),
        ((4,), "middle", "data.channels = 'middle'; allowed: auto, last, first, none"),
    ],
)
def test_layouts_that_are_refused(each, channels, message):
    assert said(custom_rules.layout, (5, *each), channels, "f") == message


def test_channels_are_moved_last():
    x = noise(20, 3, 5, 7)
    arrays, _ = split_arrays(x, noise(20), channels="first")
    at = split_arrays(x, noise(20), channels="first")[1]["rows"]["test"]
    np.testing.assert_array_equal(arrays["test"]["x"], x[at].transpose(0, 2, 3, 1))
    assert arrays["test"]["x"].flags.c_contiguous


@pytest.mark.parametrize(
    ("shape", "most", "patch"),
    [((64, 3), 64, 1), ((65, 3), 64, 2), ((8, 8, 1), 64, 1), ((9, 8, 1), 64, 2)]
    + [((28, 28, 1), 64, 4), ((28, 28, 1), 1, 28), ((5, 100, 2), 10, 10)],
)
def test_patch_is_the_smallest_that_fits(shape, most, patch):
    assert custom_rules.patch(shape, most) == patch
    assert custom_rules.num_tokens(shape, patch) <= most
    assert patch == 1 or custom_rules.num_tokens(shape, patch - 1) > most


# Kinds of targets.

WORDS = np.array(["b", "a"] * 30)
ONE_HOT = np.eye(3, dtype=int)[np.arange(60) % 3]
LABELS = (np.arange(60)[:, None] >> np.arange(3)) & 1


@pytest.mark.parametrize(
    ("y", "kind"),
    [
        (WORDS, "classification"),
        (WORDS.astype(bytes), "classification"),
        (np.arange(60) % 2 == 0, "classification"),
        (np.arange(60) % 20, "classification"),
        (np.arange(60) % 20 * 1.0, "classification"),
        ((np.arange(60) % 4)[:, None], "classification"),
        (np.arange(60) % 21, "regression"),  # more than n / 20
        (np.arange(60) % 31 * 1.0, "regression"),
        (np.arange(60) % 2 + 0.5, "regression"),
        (np.arange(2000) % 100, "classification"),  # 0..99, without a gap
        (np.arange(2000) % 100 + 1, "classification"),
        (np.arange(2000) % 100 + 2, "regression"),
        (np.arange(2000) % 101, "regression"),
        (np.arange(2000) % 100 * 1.0, "regression"),
        (np.arange(24), "regression"),  # each once
        (np.array([7, 10**12, 10**12 + 1] * 2), "classification"),
        (ONE_HOT, "classification"),
        (LABELS, "multilabel"),
        (LABELS.astype(bool), "multilabel"),
        (noise(60), "regression"),
        (noise(60, 1), "regression"),
        (noise(60, 4), "regression"),
        (LABELS * 2, "regression"),
    ],
)
def test_kind_of_targets(y, kind):
    found = facts(noise(len(y), 9), y)
    assert found.kind == kind
    assert found.metric in metrics.METRICS and hasattr(task_losses, found.loss)
    assert (
        found.y_shape
        == {
            "classification": (),
            "multilabel": (3,),
            "regression": (y.size // len(y),),
        }[kind]
    )


@pytest.mark.parametrize(
    ("x", "y", "shape", "axis"),
    [
        ((40, 16), (40, 16), (16, 1), "none"),
        ((40, 32, 2), (40, 32), (32, 1), "none"),
        ((40, 32, 2), (40, 32, 5), (32, 5), "last"),
        ((40, 32, 2), (40, 5, 32), (32, 5), "first"),
        ((40, 8, 8), (40, 8, 8), (8, 8, 1), "none"),
        ((40, 9, 8, 2), (40, 9, 8), (9, 8, 1), "none"),
        ((40, 2, 9, 8), (40, 3, 9, 8), (9, 8, 3), "first"),
        ((40, 9, 9, 2), (40, 9, 9, 9), (9, 9, 9), "last"),
        ((40, 2, 9, 9), (40, 9, 9, 9), (9, 9, 9), "first"),
    ],
)
def test_fields_on_the_grid_of_x_are_dense(x, y, shape, axis):
    found = facts(noise(*x), noise(*y))
    assert (found.kind, found.y_shape, found.y_axis) == ("dense", shape, axis)
    assert (found.metric, found.loss) == ("nrmse", "relative_l2")
    assert (found.scale_x, found.scale_y) == (
        "column" if len(x) == 2 else "channel",
        "point",
    )


def test_dense_targets_are_laid_out_as_said():
    y = noise(40, 5, 32)
    arrays, report = split_arrays(noise(40, 32, 2), y)
    np.testing.assert_array_equal(
        arrays["train"]["y"], y[report["rows"]["train"]].transpose(0, 2, 1)
    )


def test_few_values_to_as_many_are_a_regression():
    assert facts(noise(40, 7), noise(40, 7)).kind == "regression"
    assert facts(noise(40, 7), noise(40, 7), kind="dense").kind == "dense"


def test_field_of_zeros_is_not_measured_relative_to_itself():
    y = noise(40, 16)
    y[3] = 0
    found = facts(noise(40, 16), y)
    assert (found.metric, found.loss) == ("rmse", "rmse")
    assert "a sample of y is zero everywhere, so errors are not relative" in found.notes


@pytest.mark.parametrize(
    ("y", "kind", "said_last"),
    [
        (noise(40, 2), "classification", "(n,), or (n, k) with a single 1 in each row"),
        (noise(40, 2), "multilabel", "(n, k) of 0 and 1"),
        (noise(40, 2, 2), "regression", "(n,) or (n, k)"),
        (
            noise(40, 2),
            "dense",
            "(n, 9, 8), the grid of x, and perhaps channels",
        ),
    ],
)
def test_targets_of_another_kind_are_refused(y, kind, said_last):
    assert said(facts, noise(40, 9, 8), y, kind=kind, channels="none") == (
        f"arrays: y has shape {y.shape} with data.kind={kind}; allowed: {said_last}"
    )


def test_targets_of_no_kind_are_refused():
    assert said(facts, noise(40, 9), noise(40, 3, 3)) == (
        "arrays: y has shape (40, 3, 3); allowed: (n,), (n, k), or the grid of x"
    )
    assert said(facts, noise(40, 9), noise(40), kind="guess") == (
        "data.kind = 'guess'; allowed: auto, dense, classification, multilabel, "
        "regression"
    )
    assert said(facts, noise(60, 9), WORDS, kind="regression") == (
        "arrays: y holds text of shape (60,) with data.kind=regression; allowed: "
        "numbers, or text of shape (n,) for classification"
    )


def test_kind_can_be_said():
    found = facts(noise(60, 9), np.arange(60) % 5, kind="regression")
    assert (found.kind, found.y_shape) == ("regression", (1,))
    found = facts(noise(60, 9), np.arange(60) % 30, kind="classification")
    assert (found.kind, found.num_classes) == ("classification", 30)


def test_one_hot_targets_are_classes():
    arrays, report = split_arrays(noise(60, 9), ONE_HOT)
    for split, at in report["rows"].items():
        np.testing.assert_array_equal(arrays[split]["y"], at % 3)
        assert arrays[split]["y"].dtype == np.int32


@pytest.mark.parametrize(
    ("name", "kind", "x_shape", "y_shape", "num", "scale"),
    [
        ("digits", "classification", (8, 8, 1), (), 10, "channel"),
        ("iris", "classification", (4, 1), (), 3, "column"),
        ("wine", "classification", (13, 1), (), 3, "column"),
        ("breast_cancer", "classification", (30, 1), (), 2, "column"),
        ("diabetes", "regression", (10, 1), (1,), 0, "column"),
    ],
)
def test_sets_of_scikit_learn(name, kind, x_shape, y_shape, num, scale):
    found = custom.infer(f"sklearn:{name}")
    assert found.kind == kind
    assert (found.x_shape, found.y_shape) == (x_shape, y_shape)
    assert (found.num_classes, found.scale_x) == (num, scale)
    assert found.labels == tuple(map(str, range(num)))
    arrays, report = load(f"sklearn:{name}", found)
    task = tasks.split_task(
        name,
        arrays,
        kind=found.kind,
        metric=found.metric,
        protocol="corrected",
        val_frac=0.1,
        split_seed=0,
        num_classes=found.num_classes,
        stratify=report["stratify"],
    )
    sizes = {split: len(held["x"]) for split, held in task.splits.items()}
    assert sizes == report["sizes"] and sum(sizes.values()) == found.num_rows
    scaled = tasks.fit_scale(task.splits["train"]["x"], found.scale_x)
    assert np.isfinite(scaled.apply(task.splits["test"]["x"])).all()


# Names and tables.

PEOPLE = "id,age,city_size,flag,outcome\n" + "".join(
    f"{i},{20 + i % 7},{1.5 * i},{'true' if i % 3 else 'false'},{'ab'[i % 2]}\n"
    for i in range(30)
)


def test_table_is_features_and_a_last_column(tmp_path):
    path = table(tmp_path, PEOPLE)
    found = custom.infer(path)
    assert (found.x, found.y) == (("id", "age", "city_size", "flag"), ("outcome",))
    assert (found.kind, found.labels) == ("classification", ("a", "b"))
    assert (found.x_shape, found.scale_x) == ((4, 1), "column")
    assert found.notes == ("column 'id' counts the rows, as an index does",)
    arrays, report = load(path, found)
    at = report["rows"]["train"]
    want = np.stack([at, 20 + at % 7, 1.5 * at, at % 3 > 0], axis=1)
    np.testing.assert_array_equal(arrays["train"]["x"][..., 0], want)
    assert arrays["train"]["x"].dtype == np.float32
    np.testing.assert_array_equal(arrays["train"]["y"], at % 2)


def test_columns_can_be_said(tmp_path):
    found = custom.infer(table(tmp_path, PEOPLE), x="age, flag", y="city_size")
    assert (found.x, found.y, found.kind) == (
        ("age", "flag"),
        ("city_size",),
        "regression",
    )
    found = custom.infer(table(tmp_path, PEOPLE), x="id", y="age,city_size")
    assert (found.kind, found.y_shape, found.x_shape) == ("regression", (2,), (1, 1))


def test_table_knows_target_split_and_group_by_name(tmp_path):
    lines = "target,split,group,u\n" + "".join(
        f"{i % 2},{'test' if i > 20 else 'train'},{i // 4},{i * i}\n" for i in range(30)
    )
    path = table(tmp_path, lines)
    found = custom.infer(path)
    assert (found.x, found.y) == (("u",), ("target",))
    assert (found.split, found.group) == ("split", "group")
    assert found.has_split and found.has_group
    found = custom.infer(path, split="none", group="none", x="group,u")
    assert (found.x, found.has_split, found.has_group) == (("group", "u"), False, False)


def test_several_columns_of_zeros_and_ones(tmp_path):
    lines = "u,wet,cold,dark\n" + "".join(
        f"{i * i},{i & 1},{i >> 1 & 1},{i >> 2 & 1}\n" for i in range(30)
    )
    path = table(tmp_path, lines)
    found = custom.infer(path, y="wet,cold,dark")
    assert found.kind == "multilabel" and found.labels == ("wet", "cold", "dark")
    arrays, report = load(path, found)
    at = report["rows"]["test"]
    np.testing.assert_array_equal(
        arrays["test"]["y"], np.stack([at, at >> 1, at >> 2], 1) & 1
    )


def test_lists_of_parquet_are_inputs(tmp_path):
    x = noise(30, 40, 3)
    columns = {"x": x.tolist(), "when": np.arange(30), "y": noise(30)}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=7)
    found = custom.infer(tmp_path / "t.parquet")
    assert (found.x, found.x_shape) == (("x",), (40, 3))
    arrays, report = load(tmp_path / "t.parquet", found)
    np.testing.assert_array_equal(arrays["test"]["x"], x[report["rows"]["test"]])


def test_the_only_other_array_is_x(tmp_path):
    found = custom.infer(save(tmp_path, spectra=noise(20, 5), y=noise(20)))
    assert (found.x, found.y) == (("spectra",), ("y",))


NAMES = [
    (
        {"u": noise(20, 5), "v": noise(20, 5), "y": noise(20)},
        {},
        "which array is x is not clear from u, v, y; allowed: x, X, data, images, "
        "inputs, features, or a name as data.x",
    ),
    (
        {"x": noise(20, 5), "z": noise(20)},
        {},
        "which array is y is not clear from x, z; allowed: y, Y, target, targets, "
        "label, labels, class, or a name as data.y",
    ),
    (
        {"x": noise(20, 5), "labels": noise(20)},
        {"y": "lables"},
        "data.y = 'lables' is not there, the nearest is 'labels'; allowed: x, labels",
    ),
    (
        {"x": noise(20, 5), "y": noise(20)},
        {"group": "patient"},
        "data.group = 'patient' is not there; allowed: x, y",
    ),
    (
        {"x": noise(20, 5), "y": noise(20)},
        {"x": "y"},
        "'y' is in x and also y, split or group; allowed: one",
    ),
    (
        {"x": noise(20, 5), "y": noise(19)},
        {},
        "unequal lengths, x has 20, y has 19; allowed: as many rows of each",
    ),
    (
        {"x": noise(20, 5), "y": noise(20), "group": np.arange(7)},
        {},
        "unequal lengths, x has 20, y has 20, group has 7; allowed: as many rows of "
        "each",
    ),
    (
        {"x": noise(0, 5), "y": noise(0)},
        {},
        "x has 0 rows; allowed: one or more",
    ),
    (
        {"x": noise(20, 5) * 1j, "y": noise(20)},
        {},
        "x holds complex numbers; allowed: real numbers",
    ),
    (
        {"x": noise(20, 5), "y": noise(20) * 1j},
        {},
        "y holds complex numbers; allowed: real numbers",
    ),
    (
        {"x": np.array(["a"] * 20), "y": noise(20)},
        {},
        "x holds text, 'a' in row 0; allowed: real numbers",
    ),
    (
        {"x": np.arange(20).astype("M8[D]"), "y": noise(20)},
        {},
        "x holds times; allowed: real numbers",
    ),
    (
        {"x": noise(20, 5), "y": np.zeros(20, [("a", "f4")])},
        {},
        "y holds [('a', '<f4')]; allowed: real numbers",
    ),
    (
        {"x": noise(20, 5), "y": noise(20), "group": noise(20, 2)},
        {},
        "group has shape (20, 2) or lacks values; allowed: one value a row",
    ),
]


@pytest.mark.parametrize("number", range(len(NAMES)))
def test_arrays_that_are_refused(tmp_path, number):
    arrays, options, message = NAMES[number]
    path = save(tmp_path, **arrays)
    assert said(custom.infer, path, **options) == f"{path}: {message}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name,u,y\nann,1,0\nbob,2,1\n",
            "column 'name' holds text, 'ann' in row 0; allowed: real numbers (data.x "
            "names the columns to use)",
        ),
        (
            "when,u,y\n2020-01-02,1,0\n2020-01-03,2,1\n",
            "column 'when' holds times; allowed: real numbers (data.x names the "
            "columns to use)",
        ),
        (
            "u,v,y\n1,2,3\n1,,3\n",
            "x is nan in row 1 (from 0), column 'v'; allowed: finite numbers",
        ),
        (
            "u,v,y\n1,2,3\n1,inf,3\n",
            "x is inf in row 1 (from 0), column 'v'; allowed: finite numbers",
        ),
        (
            "u,y\n1,2.5\n1,\n",
            "y is nan in row 1 (from 0); allowed: finite numbers",
        ),
        (
            "u,y\n1,a\n1,\n2,a\n2,b\n",
            "the label is empty in row 1 (from 0); allowed: one in every row",
        ),
        ("u,y\n", "x has 0 rows; allowed: one or more"),
        (
            "u,y\n1,a\n2,a\n3,a\n",
            "y has a single class, 'a'; allowed: two or more",
        ),
        (
            "u,y\n1,a\n2,b\n3,c\n",
            "every class has one sample; allowed: two or more of some class "
            "(data.kind=regression takes whole numbers as amounts)",
        ),
        (
            "y\n1\n2\n3\n",
            "which array is x is not clear from y; allowed: x, X, data, images, "
            "inputs, features, or a name as data.x",
        ),
    ],
)
def test_tables_that_are_refused(tmp_path, text, message):
    path = table(tmp_path, text)
    assert said(custom.infer, path) == f"{path}: {message}"


def test_lists_beside_columns_are_refused(tmp_path):
    columns = {"spectrum": [[1.0, 2.0]] * 9, "u": np.arange(9), "y": noise(9)}
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table(columns), path)
    assert said(custom.infer, path) == (
        f"{path}: column 'spectrum' holds lists of shape (2,) beside other columns; "
        "allowed: numbers, or this one as data.x"
    )
    assert custom.infer(path, x="spectrum").x_shape == (2, 1)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(
    ("shape", "place", "where"),
    [
        ((), (), ""),
        ((5,), (3,), ", column 3"),
        ((5, 6), (3, 2), ", at [3, 2]"),
    ],
)
def test_values_that_are_not_finite_are_named(value, shape, place, where):
    x = noise(20, *shape)
    x[(7, *place)] = value
    assert said(facts, x, noise(20)) == (
        f"arrays: x is {value} in row 7 (from 0){where}; allowed: finite numbers"
    )


def test_numbers_beyond_float32_are_refused():
    x = noise(20, 5).astype(np.float64)
    x[4, 2] = 1e300
    assert said(facts, x, noise(20)) == (
        "arrays: x is 1e+300 in row 4 (from 0), column 2; allowed: numbers that "
        "float32 holds, up to 3.4e38"
    )


def test_values_are_named_by_their_row_of_the_file(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK_VALUES", 10)  # two rows
    x = noise(20, 5)
    found, source = custom.from_arrays(x, noise(20))
    x[17, 2] = np.nan  # after it was looked at
    assert "row 17 (from 0), column 2" in said(load, source, found)


def test_ragged_lists_are_refused():
    message = (
        "arrays: {} holds objects, as ragged lists do; samples need padding to one "
        "shape; allowed: arrays of numbers or text"
    )
    assert said(facts, [[1.0], [1.0, 2.0]], [0, 1]) == message.format("x")
    assert said(facts, noise(2, 3), [[0], [0, 1]]) == message.format("y")
    assert said(facts, noise(2, 3), [0, "a", None]) == message.format("y")


def test_lists_and_objects_of_one_type_are_taken():
    x = [[0, 1.5], [2, 3], [4, 5], [1, 1]]
    found, source = custom.from_arrays(x, ["a", "b", "a", "b"])
    assert (found.kind, found.x_shape) == ("classification", (2, 1))
    mixed = np.array([[True, 2.5], [False, 3]] * 2, dtype=object)
    found, source = custom.from_arrays(mixed, np.array(["a", "b"] * 2, dtype=object))
    assert source.x.dtype == np.float64 and found.labels == ("a", "b")


def test_data_frames_name_their_columns():
    class Frame:
        columns = ("age", "dose")

        def __array__(self, dtype=None, copy=None):
            return np.array([[1.0, 2.0], [1.0, np.nan]])

    assert "column 'dose'" in said(facts, Frame(), [0, 1])


def test_bool_inputs_become_numbers():
    x = np.arange(40).reshape(20, 2) % 3 == 0
    arrays, report = split_arrays(x, noise(20))
    found = arrays["train"]["x"]
    assert found.dtype == np.float32 and set(np.unique(found)) == {0, 1}
    np.testing.assert_array_equal(found[..., 0], x[report["rows"]["train"]])


def test_constant_columns_and_copies_are_noted(tmp_path):
    lines = "u,v,w,y\n" + "".join(f"{i // 2},7,0.5,{i / 3}\n" for i in range(20))
    assert custom.infer(table(tmp_path, lines)).notes == (
        "2 of 3 columns of x are constant: v, w",
        "10 of 20 rows of x are copies of earlier rows",
    )
    x = noise(20, 4, 4)
    x[:, 1:3] = 0
    assert facts(x, noise(20)).notes == ("8 of 16 values of x are constant",)
    assert facts(noise(20, 3), np.ones(20) * 0.5).notes == (
        "1 of 1 values of y are constant",
    )


def test_zero_of_either_sign_is_one_value():
    x = noise(20, 2)
    x[3], x[9] = [0.0, 1.0], [-0.0, 1.0]
    assert facts(x, noise(20)).notes == (
        "1 of 20 rows of x are copies of earlier rows",
    )


# Labels.

TYPES = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1).map(np.int64),
    st.lists(st.integers(0, 2**64 - 1), min_size=1).map(np.uint64),
    st.lists(st.booleans(), min_size=1).map(lambda v: np.array(v, bool)),
    st.lists(st.integers(-(2**53), 2**53), min_size=1).map(np.float64),
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1),
        min_size=1,
    ).map(lambda v: np.array(v, str)),
    st.lists(st.text("ab\u00e9", min_size=1), min_size=1).map(
        lambda v: np.array([each.encode() for each in v])
    ),
)


@hypothesis.given(TYPES)
@hypothesis.settings(max_examples=150, deadline=None)
def test_labels_come_back(y):
    codes, labels = custom_labels.encode_labels(y)
    assert codes.dtype == np.int32 and len(set(labels)) == len(labels)
    assert sorted(set(codes.tolist())) == list(range(len(labels)))
    back = custom_labels.decode(codes, labels, y.dtype.str)
    np.testing.assert_array_equal(back, y)
    assert back.dtype.kind == y.dtype.kind
    again, _ = custom_labels.encode_labels(y[::-1], labels)
    np.testing.assert_array_equal(again, codes[::-1])


def test_labels_are_numbered_in_the_order_of_their_values():
    codes, labels = custom_labels.encode_labels(np.array([10, 9, 100, 9]))
    assert (codes.tolist(), labels) == ([1, 0, 2, 0], ("9", "10", "100"))
    codes, labels = custom_labels.encode_labels(np.array([True, False]))
    assert (codes.tolist(), labels) == ([1, 0], ("False", "True"))


def test_label_is_known_by_its_text_whatever_its_type():
    for y in ([3.0, 1.0], np.uint8([3, 1]), ["3", "1"], [b"3", b"1"]):
        codes, _ = custom_labels.encode_labels(np.array(y), ("1", "2", "3"))
        assert codes.tolist() == [2, 0]


@pytest.mark.parametrize("big", [10**12, 2**31, 2**63 + 5])
def test_labels_beyond_int32_are_told_apart(big):
    y = np.array([big, big + 1, 0, big] * 5, np.uint64)
    found, source = custom.from_arrays(noise(20, 3), y)
    assert found.labels == ("0", str(big), str(big + 1))
    arrays, report = load(source, found)
    codes = arrays["train"]["y"]
    back = custom_labels.decode(codes, found.labels, found.y_dtype)
    np.testing.assert_array_equal(back, y[report["rows"]["train"]])


def test_labels_beyond_64_bits_are_refused():
    for y in ([2**64, 1], [2**63, -1]):
        assert said(facts, noise(2, 3), y) == (
            "arrays: y holds whole numbers that no type of 64 bits has; allowed: "
            "int64, uint64, or text"
        )


def test_unseen_label_is_named():
    known = tuple("abcdefghijklm")
    assert said(custom_labels.encode_labels, np.array(["a", "z"]), known) == (
        "y: label 'z' is not known; allowed: a, b, c, d, e, f, g, h, i, j and 3 more"
    )


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (
            np.array([1.0, 0.5]),
            "y: label 0.5 in row 1 (from 0); allowed as classes: text, whole numbers "
            "or bool",
        ),
        (
            np.array([1.0, np.nan]),
            "y: label nan in row 1 (from 0); allowed as classes: text, whole numbers "
            "or bool",
        ),
        (
            np.zeros((2, 2)),
            "y: labels are float64 of shape (2, 2); allowed: text, whole numbers or "
            "bool of shape (n,)",
        ),
        (
            np.array([b"\xff", b"a"]),
            r"y: label b'\xff' is not UTF-8; allowed: text in UTF-8",
        ),
    ],
)
def test_labels_that_are_refused(y, message):
    assert said(custom_labels.encode_labels, y) == message


def test_class_of_no_label_is_refused():
    assert said(custom_labels.decode, np.array([0, 3]), ("a", "b")) == (
        "class 3; allowed: 0 to 1"
    )


# Splits.


def by_index(num=100, num_classes=4):
    """Inputs that tell their row."""
    return np.arange(num * 3.0).reshape(num, 3), np.arange(num) % num_classes


def test_test_split_is_stratified_disjoint_and_complete():
    x, y = by_index(100, 4)
    arrays, report = split_arrays(x, y)
    at = report["rows"]
    assert sorted(np.concatenate(list(at.values()))) == list(range(100))
    assert np.bincount(y[at["test"]]).tolist() == [5, 5, 5, 5]
    assert report["how"] == "at random, stratified by class, seed 0"
    assert report["stratify"] and report["sizes"] == {"train": 72, "val": 8, "test": 20}
    for split in at:
        np.testing.assert_array_equal(arrays[split]["x"][..., 0], x[at[split]])
        np.testing.assert_array_equal(arrays[split]["y"], y[at[split]])


@pytest.mark.parametrize("y", [np.arange(100) % 4, noise(100)])
def test_smaller_draws_are_parts_of_larger_ones(y):
    x, _ = by_index(100)

    def draw(seed=0, **nums):
        found = split_arrays(x, y, {"split_seed": seed} | nums)[1]["rows"]
        return {split: set(at.tolist()) for split, at in found.items()}

    small, large, whole = (
        draw(num_samples=12, num_test=8),
        draw(num_samples=40, num_test=8),
        draw(),
    )
    assert small["train"] < large["train"] < whole["train"]
    assert small["test"] == large["test"] < whole["test"]
    assert draw() == whole != draw(seed=1)
    if y.dtype == int:
        assert np.bincount(y[list(small["train"])]).tolist() == [3, 3, 3, 3]
        assert np.bincount(y[list(small["test"])]).tolist() == [2, 2, 2, 2]


def test_class_of_one_sample_trains_and_is_noted():
    x, y = by_index(40, 2)
    y[17] = 9
    for seed in range(5):
        arrays, _ = split_arrays(x, y, {"split_seed": seed, "test_frac": 0.5})
        assert 2 in arrays["train"]["y"] and 2 not in arrays["test"]["y"]
    assert facts(x, y).notes == ("1 of 3 classes have one sample, which trains: 9",)


@hypothesis.given(
    st.lists(st.integers(0, 6), min_size=2, max_size=40),
    st.floats(0.05, 0.9),
    st.integers(0, 5),
)
@hypothesis.settings(max_examples=100, deadline=None)
def test_groups_are_never_on_two_sides(group, test_frac, seed):
    hypothesis.assume(len(set(group)) > 1)
    num, group = len(group), np.array(group)
    arrays, report = split_arrays(
        np.arange(num * 2.0).reshape(num, 2) + 0.1,
        np.linspace(0.1, 0.9, num),
        {"test_frac": test_frac, "split_seed": seed},
        group=group,
    )
    at = report["rows"]
    assert sorted(np.concatenate(list(at.values()))) == list(range(num))
    train, test = (set(group[at[split]]) for split in ("train", "test"))
    assert train and test and not train & test
    inside = arrays["train"]["group"]
    np.testing.assert_array_equal(np.unique(group)[inside], group[at["train"]])
    assert not report["notes"] and not report["stratify"]


def test_group_split_feeds_the_validation_split():
    x, y = by_index(60, 3)
    group = np.array([f"patient {i // 6}" for i in range(60)])
    arrays, report = split_arrays(x, y, group=group)
    task = tasks.split_task(
        *("t", arrays),
        **{"kind": "classification", "metric": "error", "protocol": "corrected"},
        **{"val_frac": 0.1, "split_seed": 0, "num_classes": 3},
    )
    sides = [
        {group[int(row)] for row in held["x"][:, 0, 0] / 3}
        for held in task.splits.values()
    ]
    assert sum(map(len, sides)) == 10 and len(set.union(*sides)) == 10
    assert report["sizes"] == {s: len(task.splits[s]["x"]) for s in tasks.SPLITS}


def test_one_group_is_refused():
    assert said(split_arrays, noise(9, 2), noise(9), group=["a"] * 9) == (
        "arrays: all 9 rows are of one group, which cannot be split; allowed: two "
        "groups or more (data.group=none leaves groups aside)"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("train", "val", "test"),
        ("Train", "validation", "TEST "),
        (b"train", b"valid", b"test"),
        (0, 1, 2),
        (0.0, 1.0, 2.0),
    ],
)
def test_column_of_splits_is_followed(words):
    x, y = by_index(30, 3)
    split = np.array([words[i % 3 if i < 9 else 0] for i in range(30)])
    arrays, report = split_arrays(x, y, split=split)
    at = report["rows"]
    assert at["val"].tolist() == [1, 4, 7] and at["test"].tolist() == [2, 5, 8]
    assert len(at["train"]) == 24 and report["how"] == "as split says"
    np.testing.assert_array_equal(arrays["val"]["y"], y[at["val"]])
    assert report["sizes"] == {"train": 24, "val": 3, "test": 3}
    arrays, report = split_arrays(x, y, {"protocol": "official"}, split=split)
    assert "val" not in arrays and len(arrays["train"]["y"]) == 27
    assert report["sizes"] == {"train": 27, "val": 3, "test": 3}


def test_column_without_validation_leaves_it_to_the_caller():
    x, y = by_index(30, 3)
    arrays, report = split_arrays(x, y, split=["train"] * 20 + ["test"] * 10)
    assert set(arrays) == {"train", "test"} and report["rows"]["test"][0] == 20
    assert report["sizes"] == {"train": 18, "val": 2, "test": 10}


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            ["train"] * 8 + ["dev", "test"],
            "arrays: split is 'dev' in row 8 (from 0); allowed: train, val (valid, "
            "validation), test, or 0, 1, 2; data.split=none leaves it",
        ),
        (
            [0] * 8 + [1, 1],
            "arrays: split has no row of test; allowed: rows of train and of test, "
            "and of val if there is a validation split",
        ),
        (
            ["test"] * 8 + ["val"] * 2,
            "arrays: split has no row of train; allowed: rows of train and of test, "
            "and of val if there is a validation split",
        ),
    ],
)
def test_columns_of_splits_that_are_refused(split, message):
    assert said(split_arrays, noise(10, 2), noise(10), split=split) == message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_frac": 1.0}, "data.test_frac = 1.0; allowed: 0 up to but not 1"),
        ({"split_seed": -1}, "data.split_seed = -1; allowed: 0 or more"),
        ({"protocol": "mine"}, "protocol 'mine'; allowed: corrected, official"),
        ({"num_samples": -1}, "data.num_samples = -1; allowed: 0 (all) or more"),
        ({"num_test": -3}, "data.num_test = -3; allowed: 0 (all) or more"),
    ],
)
def test_draws_that_are_refused(changes, message):
    assert said(split_arrays, noise(10, 2), noise(10), changes) == message


def test_one_row_is_refused():
    assert said(split_arrays, noise(1, 2), noise(1)) == (
        "arrays: 1 row, which cannot train and test; allowed: two or more"
    )


def test_no_test_split_if_none_is_wanted():
    x, y = by_index(30, 3)
    arrays, report = split_arrays(x, y, {"test_frac": 0.0})
    assert set(arrays) == {"train"} and len(arrays["train"]["x"]) == 30
    assert report["sizes"] == {"train": 27, "val": 3, "test": 0}


def test_classes_that_do_not_train_are_noted():
    x, y = by_index(30, 3)
    y[20:] = 7
    _, report = split_arrays(x, y, split=["train"] * 20 + ["test"] * 10)
    assert report["notes"] == ("1 of 4 classes have no training sample: 7",)


def test_groups_that_a_column_of_splits_takes_apart_are_noted():
    x, _ = by_index(30)
    _, report = split_arrays(
        *(x, noise(30)),
        split=["train"] * 20 + ["test"] * 10,
        group=np.arange(30) // 4,  # 5 has rows 20 to 23, 4 rows 16 to 19
    )
    assert report["notes"] == ()
    _, report = split_arrays(
        *(x, noise(30)), split=["train"] * 20 + ["test"] * 10, group=np.arange(30) // 6
    )
    assert report["notes"] == ("1 of 5 groups are on two sides",)


# Copies.


def test_copies_on_two_sides_are_counted():
    x = noise(20, 3)
    x[15:18] = x[2]
    x[19] = x[18]
    split = ["train"] * 10 + ["val"] * 5 + ["test"] * 5
    found, source = custom.from_arrays(x, noise(20), split=split)
    arrays, report = load(source, found)
    assert report["duplicates"] == {"val": 0, "test": 3}
    text = custom.describe(found, report)
    assert "note        3 test samples are copies of training samples" in text


def test_copies_within_what_is_held_out_are_counted():
    x = np.repeat(noise(10, 3), 10, axis=0)  # each ten times
    _, report = split_arrays(x, noise(100))
    assert report["duplicates"] == {"val": 8, "test": 20}
    _, report = split_arrays(x, noise(100), {"protocol": "official"})
    assert report["duplicates"] == {"test": 20}


@pytest.mark.parametrize("with_group", [False, True])
def test_copies_can_be_kept_together(with_group):
    x = np.repeat(noise(20, 3), 5, axis=0)
    group = np.arange(100) // 10 if with_group else None
    _, report = split_arrays(
        x, noise(100), {"keep_duplicates_together": True}, group=group
    )
    assert report["duplicates"] == {"val": 0, "test": 0}
    assert report["sizes"]["test"] == 20
    if with_group:
        test = set(report["rows"]["test"] // 10)
        assert not test & set(report["rows"]["train"] // 10)


def test_groups_are_joined_as_far_as_they_reach():
    first = np.array([0, 0, 1, 1, 2, 2, 3])
    second = np.array([5, 6, 6, 7, 7, 8, 9])  # a chain through all but the last
    assert custom_split.joined(first, second).tolist() == [0] * 6 + [1]
    assert custom_split.joined(None, second).tolist() == [0, 1, 1, 2, 2, 3, 4]


# Large files.


def test_load_leaves_in_the_file_what_memory_does_not_hold(tmp_path, monkeypatch):
    x, y = noise(50, 2, 6, 8), noise(50, 6, 8)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=x, chunks=(7, 2, 6, 8))
        file["y"] = y
    found = custom.infer(path)
    assert (found.kind, found.x_shape) == ("dense", (6, 8, 2))
    small, report = load(path, found)
    monkeypatch.setattr(custom, "IN_MEMORY", 1000)
    monkeypatch.setattr(rows, "BLOCK_VALUES", 500)
    large, again = load(path, found)
    for split in ("train", "test"):
        assert isinstance(large[split]["x"], rows.Rows)
        for side in "xy":
            np.testing.assert_array_equal(
                np.asarray(large[split][side]), small[split][side]
            )
            assert large[split][side].shape == small[split][side].shape
    assert report["sizes"] == again["sizes"]
    np.testing.assert_array_equal(
        small["test"]["x"], x[report["rows"]["test"]].transpose(0, 2, 3, 1)
    )


def test_only_rows_of_use_are_read():
    x, asked = noise(1000, 3), []

    def read(at):
        asked.extend(at.tolist())
        return x[at]

    found, source = custom.from_arrays(x, np.arange(1000) % 2)
    source = source._replace(x=rows.Rows(read, x.shape))
    arrays, report = load(source, found, num_samples=20, num_test=10)
    used = np.concatenate(list(report["rows"].values()))
    assert sorted(asked) == sorted(used) and len(used) == 30


# In words.


def test_description_names_the_fields(tmp_path):
    path = table(tmp_path, PEOPLE)
    found = custom.infer(path)
    _, report = load(path, found)
    assert custom.describe(found, report) == (
        f"data        {path}, 30 rows (data.path)\n"
        f"sha256      {arrays_file.sha256(path)}\n"
        "x           4 values of id, age, city_size, flag (data.x)\n"
        "channels    1, added (data.channels)\n"
        "y           outcome (data.y)\n"
        "task        classification, 2 classes: a, b (data.kind)\n"
        "loss        cross_entropy\n"
        "metric      error (data.metric)\n"
        "scale of x  column (data.scale_x)\n"
        "scale of y  none\n"
        "patch       1, for 4 tokens (embedder.patch)\n"
        "groups      none (data.group)\n"
        "split       at random, stratified by class, seed 0 (data.split)\n"
        "train       22 samples (data.num_samples)\n"
        "val         2 samples (data.val_frac)\n"
        "test        6 samples (data.test_frac)\n"
        "note        column 'id' counts the rows, as an index does"
    )


def test_description_of_fields():
    found, source = custom.from_arrays(noise(40, 2, 9, 8), noise(40, 9, 8))
    text = custom.describe(found, load(source, found)[1])
    assert "task        dense, 9 x 8 x 1 values each (data.kind)\n" in text
    assert "channels    2, on the first axis (data.channels)\n" in text
    assert "loss        relative_l2 (data.loss)\n" in text
    assert "scale of y  point (data.scale_y)\n" in text


def test_facts_know_the_content(tmp_path):
    x, y = by_index(20, 2)
    path = save(tmp_path, x=x, y=y)
    first = custom.infer(path)
    assert first.sha256 == arrays_file.sha256(path) and first.num_rows == 20
    assert facts(x, y).sha256 != facts(x + 1, y).sha256


def test_load_takes_fields_in_place_of_facts(tmp_path):
    x, y = by_index(30, 3)
    path = save(tmp_path, u=x, v=y)
    fields = {"x": "u", "y": "v", "kind": "regression"}
    arrays, _ = load(path, fields)
    assert arrays["train"]["y"].shape == (24, 1)
    assert arrays["train"]["y"].dtype == np.float32


def test_label_that_is_new_in_the_file_is_refused(tmp_path):
    x, y = by_index(20, 2)
    found = custom.infer(save(tmp_path, x=x, y=y))
    y[3] = 5
    path = save(tmp_path, x=x, y=y)
    assert said(load, path, found) == (f"{path}: label '5' is not known; allowed: 0, 1")


# New inputs.


@pytest.mark.parametrize(
    ("shape", "channels"),
    [((3, 9, 8), "first"), ((9, 8, 3), "last"), ((9, 8), "none"), ((9,), "none")],
)
def test_new_inputs_are_laid_out_as_those_of_the_task(shape, channels):
    x = noise(20, *shape)
    found, source = custom.from_arrays(x, noise(20), channels=channels)
    arrays, report = load(source, found)
    new = custom_rules.inputs(x.tolist(), found.x_shape, found.channels_axis)
    assert new.dtype == np.float32
    np.testing.assert_array_equal(new[report["rows"]["test"]], arrays["test"]["x"])


def test_new_inputs_of_another_shape_are_refused():
    assert said(custom_rules.inputs, noise(5, 7), (9, 1), "none") == (
        "arrays: x is float32 of shape (5, 7); allowed: numbers of shape (n, 9)"
    )
    assert said(custom_rules.inputs, ["a"], (1, 1), "none") == (
        "arrays: x is <U1 of shape (1, 1); allowed: numbers of shape (n, 1)"
    )
    assert custom_rules.inputs([1, 2], (1, 1), "none").shape == (2, 1, 1)
