"""The language of flat parameter paths."""

import numpy as np
import pytest

from recraft_jax import tree

PARAMS = {
    "body/layers/query/kernel": np.zeros((2, 3, 4)),
    "body/layers/query/bias": np.zeros((2, 4)),
    "bodyguard/kernel": np.zeros(5),
    "scale": np.zeros(()),
}


@pytest.mark.parametrize(
    ("path", "patterns", "expected"),
    [
        ("body/a", (r"body/.*",), True),
        ("my/body/a", (r"body/.*",), False),  # the start counts
        ("body/ab", (r"body/a",), False),  # and so does the end
        ("head/b", (r"body/.*", r"head/.*"), True),
        ("head/b", (), False),
    ],
)
def test_matches_whole_path_only(path, patterns, expected):
    assert tree.matches(path, patterns) is expected


def test_split_is_disjoint_and_complete():
    chosen, rest = tree.split(PARAMS, (r".*/kernel",))
    assert set(chosen) == {"body/layers/query/kernel", "bodyguard/kernel"}
    assert set(rest) == {"body/layers/query/bias", "scale"}
    assert all((chosen | rest)[path] is leaf for path, leaf in PARAMS.items())


def test_split_without_patterns_chooses_nothing():
    assert tree.split(PARAMS, ()) == ({}, PARAMS)


def test_split_takes_patterns_from_an_iterator():
    chosen, _ = tree.split(PARAMS, iter((r"scale", r"body/.*")))
    assert len(chosen) == 3


def test_split_refuses_pattern_without_match():
    with pytest.raises(ValueError, match="boddy"):
        tree.split(PARAMS, (r"body/.*", r"boddy/.*"))


def test_under_takes_whole_folders_only():
    assert set(tree.under(PARAMS, "body")) == {
        "layers/query/kernel",
        "layers/query/bias",
    }
    assert tree.under(PARAMS, "scale") == {}


def test_under_inverts_prefixed():
    assert tree.under(tree.prefixed(PARAMS, "a/b"), "a/b") == PARAMS
    assert tree.under(tree.prefixed({"body/x": 1}, "body"), "body") == {"body/x": 1}


def test_count_sums_sizes_with_one_for_a_scalar():
    assert tree.count(PARAMS) == 24 + 8 + 5 + 1
    assert tree.count({}) == 0


def test_differences_names_nested_paths_and_both_values():
    old = {"a": {"b": 1, "same": 2}, "gone": 3, "list": [1, 2]}
    new = {"a": {"b": 4, "same": 2}, "list": [1, 3], "fresh": "x"}
    assert tree.differences(old, new) == [
        "a.b: 1 -> 4",
        "fresh: 'absent' -> 'x'",
        "gone: 3 -> 'absent'",
        "list: [1, 2] -> [1, 3]",
    ]
    assert tree.differences(old, old) == []


def test_differences_shows_section_replaced_by_value():
    assert tree.differences({"a": {"b": 1}}, {"a": 1}) == ["a: {'b': 1} -> 1"]


def test_digest_sees_paths_types_shapes_and_values():
    plain = {"a/b": np.arange(6, dtype=np.int32), "c": np.ones(2, np.float32)}
    others = (
        {"a/d": plain["a/b"], "c": plain["c"]},
        plain | {"c": np.ones(2, np.float64)},
        plain | {"a/b": plain["a/b"].reshape(2, 3)},
        plain | {"c": np.float32([1, 2])},
    )
    assert tree.digest(plain) == tree.digest(dict(reversed(plain.items())))
    turned = plain | {"a/b": np.asfortranarray(plain["a/b"].reshape(2, 3))}
    assert tree.digest(turned) == tree.digest(others[2])
    assert len({tree.digest(one) for one in (plain, *others)}) == 5
