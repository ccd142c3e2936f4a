"""Tasks: splits, checks, standardisation, hash."""

import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import tasks


def make(arrays, **changes):
    options = {
        "kind": "dense",
        "metric": "nrmse",
        "protocol": "corrected",
        "val_frac": 0.2,
        "split_seed": 0,
    }
    return tasks.split_task("toy", arrays, **(options | changes))


def raw(num_train=20, num_test=6):
    """Samples that carry their own index in x and y."""
    index = np.arange(1, num_train + num_test + 1, dtype=np.float32)
    x = np.repeat(index[:, None, None], 3, axis=1)
    return {
        "train": {"x": x[:num_train], "y": -x[:num_train]},
        "test": {"x": x[num_train:], "y": -x[num_train:]},
    }


def indices(task, split):
    return task.splits[split]["x"][:, 0, 0].tolist()


def test_split_is_disjoint_and_complete():
    task = make(raw())
    train, val = indices(task, "train"), indices(task, "val")
    assert (len(train), len(val)) == (16, 4)
    assert sorted(train + val) == list(range(1, 21))
    assert indices(task, "test") == list(range(21, 27))


def test_split_keeps_pairs_together():
    for arrays in make(raw()).splits.values():
        np.testing.assert_array_equal(arrays["x"], -arrays["y"])


def test_split_draws_by_its_seed():
    one, same, other = (make(raw(), split_seed=s) for s in (3, 3, 4))
    assert indices(one, "val") == indices(same, "val")
    assert indices(one, "val") != indices(other, "val")
    assert indices(one, "val") != list(range(1, 5))  # drawn, not cut off
    assert indices(one, "val") != list(range(17, 21))


@pytest.mark.parametrize(("val_frac", "num_val"), [(0.1, 2), (0.13, 3), (0.5, 10)])
def test_split_rounds_the_share(val_frac, num_val):
    assert len(indices(make(raw(), val_frac=val_frac), "val")) == num_val


def test_official_protocol_trains_on_all_and_selects_on_test():
    arrays = raw()
    task = make(arrays, protocol="official")
    for key in "xy":
        np.testing.assert_array_equal(task.splits["train"][key], arrays["train"][key])
        np.testing.assert_array_equal(task.splits["val"][key], arrays["test"][key])
        np.testing.assert_array_equal(task.splits["test"][key], arrays["test"][key])


def test_split_carries_what_it_was_told():
    task = make(raw(), kind="classification", metric="error", num_classes=7)
    assert task[:3] == ("toy", "classification", "error")
    assert task.num_classes == 7


def test_split_refuses_unknown_protocol():
    with pytest.raises(errors.InputError, match="'released'; allowed: corrected"):
        make(raw(), protocol="released")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("protocol", ["corrected", "official"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("key", ["x", "y"])
def test_split_names_samples_that_are_not_finite(value, protocol, split, key):
    arrays = raw()
    arrays[split][key] = arrays[split][key].copy()
    arrays[split][key][4, 1] = value
    arrays[split][key][5, :] = value
    said = rf"toy: {split} {key} .* 2 of {len(arrays[split][key])} .* in sample 4;"
    with pytest.raises(errors.InputError, match=said):
        make(arrays, protocol=protocol)


@pytest.mark.parametrize(
    ("arrays", "val_frac", "split"),
    [
        (raw(), 1.0, "train"),
        (raw(num_test=0), 0.2, "test"),
        (raw(num_train=0), 0.2, "train"),
    ],
)
def test_split_refuses_empty_split(arrays, val_frac, split):
    with pytest.raises(errors.InputError, match=f"the {split} split is empty"):
        make(arrays, val_frac=val_frac)


@pytest.mark.parametrize("protocol", ["corrected", "official"])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("longer", ["x", "y"])
def test_split_refuses_unequal_lengths(protocol, split, longer):
    arrays = raw()
    arrays[split][longer] = np.concatenate([arrays[split][longer]] * 2)
    with pytest.raises(errors.InputError, match=f"{split} has unequal lengths"):
        make(arrays, protocol=protocol)


def fields():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(50, 6, 2)) * [2.0, 5.0] + [10.0, -3.0]
    return (values + np.arange(6)[:, None] * 4).astype(np.float32)


def test_channel_scale_has_one_mean_and_deviation_per_channel():
    values = fields()
    scale = tasks.fit_scale(values, "channel")
    assert scale.mean.shape == scale.std.shape == (2,)
    np.testing.assert_allclose(scale.mean, values.reshape(-1, 2).mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale.std, values.reshape(-1, 2).std(0), rtol=1e-5)
    done = scale.apply(values)
    np.testing.assert_allclose(done.mean((0, 1)), 0.0, atol=1e-5)
    np.testing.assert_allclose(done.std((0, 1)), 1.0, rtol=1e-5)


def test_point_scale_has_a_mean_per_point_and_a_deviation_per_channel():
    values = fields()
    scale = tasks.fit_scale(values, "point")
    assert scale.mean.shape == (6, 2)
    assert scale.std.shape == (2,)
    np.testing.assert_allclose(scale.mean, values.mean(0), rtol=1e-5)
    spread = (values - values.mean(0)).reshape(-1, 2).std(0)
    np.testing.assert_allclose(scale.std, spread, rtol=1e-5)
    np.testing.assert_allclose(scale.apply(values).mean(0), 0.0, atol=1e-5)


def test_column_scale_has_a_mean_and_a_deviation_per_value():
    values = fields()
    values[:, 1] *= [1.0, 100.0]
    scale = tasks.fit_scale(values, "column")
    assert scale.mean.shape == scale.std.shape == (6, 2)
    assert scale.mean.dtype == scale.std.dtype == np.float32
    np.testing.assert_allclose(scale.mean, values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(scale.std, values.std(0), rtol=1e-5)
    done = scale.apply(values)
    np.testing.assert_allclose(done.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(done.std(0), 1.0, rtol=1e-5)
    np.testing.assert_allclose(scale.invert(done), values, rtol=1e-4)


def test_column_scale_leaves_constant_columns_at_zero():
    values = np.full((7, 3, 1), 0.1, np.float32)
    values[:, 1, 0] = np.arange(7)
    scale = tasks.fit_scale(values, "column")
    assert scale.std[[0, 2]].tolist() == [[1.0], [1.0]]
    assert not scale.apply(values)[:, [0, 2]].any()
    # What training never showed is not blown up in another split.
    np.testing.assert_allclose(scale.apply(values + 1)[:, 0], 1.0)


def test_no_scale_changes_nothing():
    values = fields()
    scale = tasks.fit_scale(values, "none")
    np.testing.assert_array_equal(scale.apply(values), values)
    np.testing.assert_array_equal(scale.invert(values), values)


@pytest.mark.parametrize("kind", ["channel", "point", "column", "none"])
def test_scale_inverts_what_it_applies(kind):
    values = fields()
    scale = tasks.fit_scale(values, kind)
    other = (3 * values + 1)[:7]  # not only what it was fitted on
    done = scale.apply(other)
    assert done.dtype == np.float32
    np.testing.assert_allclose(scale.invert(done), other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["channel", "point"])
def test_scale_keeps_constant_channel_at_zero(kind):
    values = fields()
    values[..., 1] = 0.1
    scale = tasks.fit_scale(values, kind)
    assert scale.std[1] == 1.0
    np.testing.assert_array_equal(scale.apply(values)[..., 1], 0.0)
    np.testing.assert_array_equal(
        scale.invert(scale.apply(values))[..., 1], values[..., 1]
    )


def test_scale_is_exact_for_large_offsets():
    values = fields() + np.float32(1e4)
    scale = tasks.fit_scale(np.repeat(values, 200, axis=0), "channel")
    want = values.astype(np.float64).reshape(-1, 2)
    np.testing.assert_allclose(scale.mean, want.mean(0), rtol=1e-7)
    np.testing.assert_allclose(scale.std, want.std(0), rtol=1e-6)


def test_scale_refuses_unknown_kind():
    with pytest.raises(
        errors.InputError, match="'minmax'; allowed: channel, point, col"
    ):
        tasks.fit_scale(fields(), "minmax")


def copied(task):
    return task._replace(
        splits={s: {k: v.copy() for k, v in a.items()} for s, a in task.splits.items()}
    )


@pytest.mark.parametrize("split", tasks.SPLITS)
@pytest.mark.parametrize("key", ["x", "y"])
@pytest.mark.parametrize("position", [0, -1])
def test_sha256_changes_with_any_value(split, key, position):
    task = make(raw())
    changed = copied(task)
    assert tasks.sha256(changed) == tasks.sha256(task)
    flat = changed.splits[split][key].reshape(-1)
    flat[position] = np.nextafter(flat[position], np.float32(np.inf))
    assert tasks.sha256(changed) != tasks.sha256(task)


def test_sha256_changes_with_shape_type_place_and_name():
    task = make(raw())
    hashes = {tasks.sha256(task)}
    x = task.splits["test"]["x"]
    for other in (x.reshape(-1, 1, 3), x.view(np.int32), x[::-1]):
        changed = copied(task)
        changed.splits["test"]["x"] = other
        hashes.add(tasks.sha256(changed))
    swapped = copied(task)
    swapped.splits["test"].update(x=task.splits["test"]["y"], y=x)
    hashes.add(tasks.sha256(swapped))
    renamed = copied(task)
    renamed.splits["test"]["z"] = renamed.splits["test"].pop("y")
    hashes.add(tasks.sha256(renamed))
    assert len(hashes) == 6


def test_sha256_is_that_of_the_values_not_of_the_memory():
    task = make(raw())
    changed = copied(task)
    x = changed.splits["train"]["x"]
    changed.splits["train"]["x"] = np.asfortranarray(np.concatenate([x, x]))[: len(x)]
    changed.splits["train"] = dict(reversed(changed.splits["train"].items()))
    assert tasks.sha256(changed) == tasks.sha256(task)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        ([[0, 1], [1, 0.5]], "train y is neither 0 nor 1 in 1 of 4 labels, first 0.5"),
        ([[0, -1], [1, 2]], "train y is neither 0 nor 1 in 2 of 4 labels, first -1.0"),
        ([[0, 1, 1], [1, 0, 0]], r"shape \(2, 3\); allowed: \(2, 2\)"),
        ([0, 1], r"shape \(2,\); allowed: \(2, 2\)"),
    ],
)
def test_multilabel_targets_other_than_0_and_1_are_refused(y, message):
    x, good = np.zeros((2, 3, 1), np.float32), np.float32([[0, 1], [1, 0]])
    settings = {"kind": "multilabel", "val_frac": 0.5, "num_classes": 2}
    arrays = {"train": {"x": x, "y": good}, "test": {"x": x, "y": good}}
    assert make(arrays, **settings).num_classes == 2
    arrays["train"] = {"x": x, "y": np.float32(y)}
    with pytest.raises(errors.InputError, match=message):
        make(arrays, **settings)


def grouped(sizes, num_test=4):
    """Samples that carry their index, in shuffled groups of these sizes."""
    arrays = raw(sum(sizes), num_test)
    group = np.random.default_rng(9).permutation(
        np.repeat(np.arange(len(sizes)), sizes)
    )
    arrays["train"]["group"] = group
    arrays["test"]["group"] = np.full(num_test, 99)
    return arrays, group


@pytest.mark.parametrize("split_seed", range(4))
@pytest.mark.parametrize(
    ("sizes", "val_frac"), [([1] * 30, 0.2), ([7, 3, 9, 4, 2], 0.3), ([5, 6], 0.1)]
)
def test_validation_holds_whole_groups(sizes, val_frac, split_seed):
    arrays, group = grouped(sizes)
    task = make(arrays, val_frac=val_frac, split_seed=split_seed)
    rows = {s: np.array(indices(task, s), int) - 1 for s in ("train", "val")}
    assert sorted(np.concatenate(list(rows.values()))) == list(range(sum(sizes)))
    train, val = (set(group[rows[s]]) for s in ("train", "val"))
    assert train and val and not train & val
    for arrays in task.splits.values():
        assert set(arrays) == {"x", "y"}
        np.testing.assert_array_equal(arrays["x"], -arrays["y"])
    # No further group would bring it closer.
    num, want = len(rows["val"]), val_frac * sum(sizes)
    assert all(abs(num - want) <= abs(num + sizes[g] - want) for g in train)


def test_validation_of_single_samples_as_groups_has_the_exact_share():
    arrays, _ = grouped([1] * 40)
    assert len(indices(make(arrays, val_frac=0.25), "val")) == 10


def test_groups_are_drawn_by_the_split_seed():
    arrays, _ = grouped([2] * 12)
    vals = [indices(make(arrays, split_seed=seed), "val") for seed in (0, 0, 1, 2)]
    assert vals[0] == vals[1]
    assert vals[0] != vals[2] or vals[0] != vals[3]


def test_too_large_groups_leave_the_smallest_to_validate():
    arrays, group = grouped([10, 8, 12])
    rows = np.array(indices(make(arrays, val_frac=0.01), "val"), int) - 1
    assert set(group[rows]) == {1} and len(rows) == 8


@pytest.mark.parametrize("val_frac", [0.9, 1.0])
def test_one_group_always_trains(val_frac):
    arrays, group = grouped([3, 3, 3])
    rows = np.array(indices(make(arrays, val_frac=val_frac), "train"), int) - 1
    assert len(set(group[rows])) == 1 and len(rows) == 3


def test_single_group_is_refused():
    arrays, _ = grouped([9])
    with pytest.raises(errors.InputError) as info:
        make(arrays)
    assert str(info.value) == (
        "task toy: all 9 training samples are of one group, which cannot be split; "
        "allowed: two groups or more (try a larger data.num_samples)"
    )


def test_official_protocol_drops_groups():
    arrays, _ = grouped([9])  # nothing is split
    task = make(arrays, protocol="official")
    assert all(set(found) == {"x", "y"} for found in task.splits.values())
    assert len(task.splits["train"]["x"]) == 9


# ----------------------------------------------------------- splits and groups as given
def test_given_validation_split_is_used():
    arrays, _ = grouped([1] * 8)
    arrays["val"] = {k: -v[:3] for k, v in arrays["test"].items() if k != "group"}
    for part in arrays.values():
        part.pop("group", None)
    task = make(arrays)
    np.testing.assert_array_equal(task.splits["val"]["x"], arrays["val"]["x"])
    assert len(task.splits["train"]["x"]) == 8
    official = make(arrays, protocol="official")
    want = np.concatenate([arrays["train"]["x"], arrays["val"]["x"]])
    np.testing.assert_array_equal(official.splits["train"]["x"], want)
    np.testing.assert_array_equal(official.splits["val"]["x"], arrays["test"]["x"])


def test_groups_are_kept_for_metrics_that_ask():
    arrays, group = grouped([2] * 6)
    arrays["test"]["group"] = np.arange(len(arrays["test"]["x"]))
    task = make(arrays, val_frac=0.5, keeps_groups=True)
    rows = np.array(indices(task, "val"), int) - 1
    np.testing.assert_array_equal(task.splits["val"]["group"], group[rows])
    np.testing.assert_array_equal(task.splits["test"]["group"], arrays["test"]["group"])
    assert "group" not in task.splits["train"]


# ---------------------------------------------------------------------------- signature
@pytest.mark.parametrize(
    ("kind", "y", "num_classes", "want"),
    [
        ("dense", np.ones((5, 4, 2), np.float32), 0, ((4, 2), 2)),
        ("segmentation", np.zeros((5, 4, 1), np.float32), 0, ((4, 1), 1)),
        ("classification", np.arange(5, dtype=np.int32), 7, (None, 7)),
        ("multilabel", np.ones((5, 3), np.float32), 3, (None, 3)),
        ("regression", np.ones((5, 2), np.float32), 0, (None, 2)),
    ],
)
def test_signature_says_what_goes_in_and_comes_out(kind, y, num_classes, want):
    x = np.random.default_rng(0).normal(3, 2, (5, 4, 6)).astype(np.float32)
    splits = dict.fromkeys(tasks.SPLITS, {"x": x, "y": y})
    task = tasks.Task("t", kind, "m", splits, num_classes, labels=("a",))
    found = tasks.sign(task, "channel", "channel")
    assert (found.kind, found.x_shape, found.labels) == (kind, (4, 6), ("a",))
    assert (found.y_shape, found.num_outputs) == want
    np.testing.assert_allclose(found.scale_x.mean, x.mean((0, 1)), rtol=1e-5)
    has_units = kind in ("dense", "regression")
    np.testing.assert_allclose(found.scale_y.mean, 1.0 if has_units else 0.0)


def test_distances_are_scaled_by_those_that_are_judged():
    y = np.float32([[[2.0], [-1.0]], [[6.0], [-1.0]]])
    splits = dict.fromkeys(tasks.SPLITS, {"x": y, "y": y})
    task = tasks.Task("t", "distance", "mae8", splits)
    scale = tasks.sign(task, "none", "channel").scale_y
    np.testing.assert_allclose((scale.mean, scale.std), ([4.0], [2.0]))
    assert tasks.sign(task, "none", "none").scale_y.std == 1


@pytest.mark.parametrize("seed", range(3))
def test_stratified_hold_out_keeps_the_shares_of_classes(seed):
    labels = np.random.default_rng(5).permutation(np.repeat([0, 1, 2], [60, 30, 10]))
    rows = tasks.hold_out(100, 0.2, seed, stratify=labels)
    assert np.bincount(labels[rows["val"]]).tolist() == [12, 6, 2]
    assert sorted(np.concatenate(list(rows.values()))) == list(range(100))
    assert all((np.diff(found) > 0).all() for found in rows.values())


def test_stratified_hold_out_is_drawn_by_its_seed():
    labels = np.arange(40) % 2
    one, same, other = (
        tasks.hold_out(40, 0.2, seed, stratify=labels)["val"].tolist()
        for seed in (3, 3, 4)
    )
    assert one == same != other


@pytest.mark.parametrize("val_frac", [0.0, 0.5, 0.9, 1.0])
def test_stratified_hold_out_leaves_one_of_each_class_to_train(val_frac):
    labels = np.array([2, 0, 0, 1, 0, 1, 0])
    rows = tasks.hold_out(7, val_frac, 0, stratify=labels)
    assert set(labels[rows["train"]]) == {0, 1, 2}
    assert len(rows["val"]) == {0.0: 1, 0.5: 4, 0.9: 4, 1.0: 4}[val_frac]


def test_stratified_hold_out_of_single_samples_is_empty():
    rows = tasks.hold_out(3, 0.5, 0, stratify=np.arange(3))
    assert rows["val"].size == 0 and rows["train"].tolist() == [0, 1, 2]


def classes():
    arrays = raw(num_train=50)
    y = np.arange(50) % 5 // 4  # a fifth is of class 1
    arrays["train"]["y"] = y.astype(np.int32)
    arrays["test"]["y"] = np.zeros(6, np.int32)
    return arrays


def test_split_stratifies_if_told():
    task = make(classes(), kind="classification", stratify=True)
    assert np.bincount(task.splits["val"]["y"]).tolist() == [8, 2]
    assert np.bincount(task.splits["train"]["y"]).tolist() == [32, 8]


def test_given_validation_split_is_kept():
    arrays = raw()
    arrays["val"] = {key: value[:3] + 100 for key, value in arrays["train"].items()}
    task = make(arrays)
    for split in tasks.SPLITS:
        np.testing.assert_array_equal(task.splits[split]["x"], arrays[split]["x"])
    assert len(task.splits["train"]["x"]) == 20


def test_given_validation_split_is_checked():
    arrays = raw()
    arrays["val"] = {"x": np.full((2, 3), np.nan), "y": np.zeros((2, 3))}
    with pytest.raises(errors.InputError, match="toy: val x has values that are not"):
        make(arrays)


def test_unit_gaussian_is_unbiased_with_an_epsilon():
    values = np.float32([[[1.0], [5.0]], [[3.0], [5.0]], [[8.0], [5.0]]])
    scale = tasks.fit_scale(values, "unit_gaussian")
    np.testing.assert_allclose(scale.mean[:, 0], [4.0, 5.0])
    np.testing.assert_allclose(scale.std[:, 0], [np.sqrt(13) + 1e-5, 1e-5], rtol=1e-6)


def test_given_validation_split_loses_its_groups():
    arrays, _ = grouped([1] * 8)
    arrays["val"] = dict(arrays["test"])
    for keeps in (False, True):
        splits = make(arrays, keeps_groups=keeps).splits
        assert ("group" in splits["val"]) == ("group" in splits["test"]) == keeps
