"""The offline tasks' raw arrays as somebody's own file: the same scores.

    python -m pytest -q -n 0 -s -m network tests/test_custom_as_offline.py

takes a quarter of an hour on two cores and prints the table of docs/results.md.
"""

import json
import statistics

import numpy as np
import pytest

from configs import offline
from recraft_jax import main, targets
from recraft_jax.data import tasks

SEEDS = (0, 1, 2)


def score(argv, workdir):
    assert main.main(["main", *argv, f"--workdir={workdir}"]) == 0
    return json.loads((workdir / "results.json").read_text())["test"]["best_val"]


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize("name", offline.TASKS)
def test_inferred_settings_score_as_those_of_the_task(name, tmp_path, capfd):
    config = offline.get_config(f"{name},method=nft,scale=quick")
    task = targets.load(config)
    parts = [task.splits[split] for split in tasks.SPLITS]
    x, y = (np.concatenate([part[key] for part in parts]) for key in ("x", "y"))
    x = x[..., 0] if x.shape[-1] == 1 else x
    y = y[..., 0] if y.shape[-1] == 1 else y
    split = np.repeat(tasks.SPLITS, [len(part["x"]) for part in parts])
    path = tmp_path / f"{name}.npz"
    np.savez(path, x=x, y=y, split=split)
    ours, theirs = [], []
    for seed in SEEDS:
        keys = f"method=nft,scale=quick,seed={seed}"
        # As many steps; all else follows from the file.
        fields = {
            "stage2.num_epochs": config.stage2.num_epochs,
            "data.num_samples": 0,
            "data.num_test": 0,
        }
        theirs.append(
            score([f"--config=configs/offline.py:{name},{keys}"], tmp_path / f"t{seed}")
        )
        ours.append(
            score(
                [
                    f"--config=configs/custom.py:path={path},{keys}",
                    *(f"--config.{field}={value}" for field, value in fields.items()),
                ],
                tmp_path / f"o{seed}",
            )
        )
    means, spreads = (
        [fn(values) for values in (theirs, ours)]
        for fn in (statistics.mean, statistics.stdev)
    )
    with capfd.disabled():
        print(
            f"\n| {name} | {task.metric} | {means[0]:.3f} ± {spreads[0]:.3f} | "
            f"{means[1]:.3f} ± {spreads[1]:.3f} |"
        )
    # Within the spread of single runs, two deviations; better is no failure.
    spread = (sum(spread**2 for spread in spreads) / 2) ** 0.5
    assert means[1] <= means[0] + 2 * spread
