"""Finding the phase of a global step."""

import pytest

from recraft_jax import phase


def phases(*lengths):
    return [
        phase.Phase(f"p{n}", "fit", None, (".*",), length, None, "shuffled", 4)
        for n, length in enumerate(lengths)
    ]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, (0, 0)),
        (1, (0, 1)),
        (4, (0, 4)),
        (5, (0, 5)),  # on the border: the earlier phase, finished
        (6, (1, 1)),
        (8, (1, 3)),
        (9, (2, 1)),
        (10, (2, 2)),
    ],
)
def test_locate_gives_border_to_the_earlier_phase(step, expected):
    assert phase.locate(phases(5, 3, 2), step) == expected


@pytest.mark.parametrize(
    ("lengths", "step", "expected"),
    [
        ((0, 3), 0, (0, 0)),
        ((0, 3), 1, (1, 1)),
        ((2, 0, 3), 2, (0, 2)),
        ((2, 0, 3), 3, (2, 1)),
    ],
)
def test_locate_passes_phases_without_steps(lengths, step, expected):
    assert phase.locate(phases(*lengths), step) == expected


@pytest.mark.parametrize(("lengths", "step"), [((5, 3), 9), ((), 0), ((0,), 1)])
def test_locate_refuses_step_beyond_the_run(lengths, step):
    with pytest.raises(ValueError, match=f"step {step} lies beyond"):
        phase.locate(phases(*lengths), step)


def test_locate_visits_every_step_once():
    made = phases(5, 3, 2)
    starts = [0, 5, 8]
    for step in range(11):
        index, within = phase.locate(made, step)
        assert starts[index] + within == step
        assert within <= made[index].num_steps
