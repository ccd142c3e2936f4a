"""The ten tasks of NAS-Bench-360: protocols, leaks, and each from files to a result."""

import nas360_writers
import numpy as np
import pytest

from configs import nas360
from recraft_jax import errors, main, metrics, targets
from recraft_jax.data import tasks


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return nas360_writers.write_all(tmp_path_factory.mktemp("nas360"))


def load(root, task, protocol="corrected", **changes):
    config = nas360.get_config(f"{task},protocol={protocol}")
    config.data.path = str(root)
    config.update_from_flattened_dict(changes)
    return targets.load(config)


def seen(task, split):
    """Samples of a split as bytes."""
    return {np.asarray(x).tobytes() for x in task.splits[split]["x"][:]}


def test_every_task_has_a_writer():
    assert set(nas360_writers.WRITERS) == set(nas360.TASKS)


# ------------------------------------------------------------------------------- splits
@pytest.mark.parametrize("task", nas360.TASKS)
def test_no_test_sample_trains_or_validates(root, task):
    found = load(root, task)
    train, val, test = (seen(found, split) for split in tasks.SPLITS)
    assert train and val and test
    assert not train & test and not val & test and not train & val


@pytest.mark.parametrize("task", ["ecg", "fsd50k"])
def test_records_and_clips_stay_together(root, task):
    found = load(root, task)
    groups = [set(found.splits[split]["group"]) for split in ("val", "test")]
    assert groups[0] and groups[1] and not groups[0] & groups[1]


@pytest.mark.parametrize("task", nas360.TASKS)
def test_official_trains_on_all_and_selects_on_test(root, task):
    corrected, official = load(root, task), load(root, task, "official")
    held = [corrected.splits[split]["x"] for split in ("train", "val")]
    extra = len(official.splits["test"]["x"]) // 4 if task == "spherical" else 0
    assert len(official.splits["train"]["x"]) == sum(map(len, held)) + extra
    assert seen(official, "val") == seen(official, "test")
    assert corrected.kind == official.kind


def test_official_spherical_trains_on_test_images(root):
    official = load(root, "spherical", "official")
    assert len(seen(official, "train") & seen(official, "test")) == 2  # of 8
    only = {"nas360.test_in_train": False}
    found = load(root, "spherical", "official", **only)
    assert not seen(found, "train") & seen(found, "test")


def test_a_number_of_samples_is_kept_with_groups_whole(root):
    whole = load(root, "ecg")
    few = load(root, "ecg", **{"data.num_samples": 12, "data.num_test": 1})
    assert len(few.splits["test"]["x"]) < len(whole.splits["test"]["x"])
    num = sum(len(few.splits[split]["x"]) for split in ("train", "val"))
    assert 12 <= num < 12 + 13  # up to the last record
    some = load(root, "deepsea", **{"data.num_samples": 8, "data.val_frac": 0.25})
    assert [len(some.splits[split]["x"]) for split in tasks.SPLITS] == [6, 2, 6]


# ------------------------------------------------------------------------------- faults
def test_every_fault_is_a_switch_that_official_turns_on():
    faults = nas360.get_config("psicov").nas360.to_dict()
    turned = nas360.get_config("psicov,protocol=official").nas360.to_dict()
    assert set(faults) == {
        *("test_in_train", "select_on_test", "first_length", "lopsided"),
        *("padding_counts", "random_test_crop", "chunk", "shuffled_chunks"),
        *("by_window", "hard_auroc", "ignored_counts", "test_noise", "raw_series"),
        *("boundary_eps", "mix_prob"),
    }
    for name in set(faults) - {"mix_prob"}:
        assert not faults[name] and turned[name], name
    assert (faults["mix_prob"], turned["mix_prob"]) == (0.75, 0.82)


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ("spherical", "test_in_train"),
        ("cosmic", "test_noise"),
        ("satellite", "raw_series"),
        ("darcy_flow", "boundary_eps"),
        ("fsd50k", "mix_prob"),
        ("psicov", "padding_counts"),
        ("cifar100", "select_on_test"),
        ("deepsea", "shuffled_chunks"),
    ],
)
def test_switch_changes_the_data(root, task, field):
    before = load(root, task)
    changes = {f"nas360.{field}": 0.0 if field == "mix_prob" else True}
    assert tasks.sha256(before) != tasks.sha256(load(root, task, **changes))


@pytest.mark.parametrize(
    ("task", "field", "name", "options"),
    [
        ("psicov", "first_length", "mae8", {"length": 31}),
        ("psicov", "lopsided", "mae8", {"is_official": True}),
        ("cosmic", "hard_auroc", "1-auroc", {"is_hard": True}),
        ("cosmic", "ignored_counts", "1-auroc", {"counts_ignored": True}),
        ("ecg", "by_window", "1-f1", {}),
    ],
)
def test_switch_changes_the_metric(root, task, field, name, options):
    before = load(root, task)
    found = load(root, task, **{f"nas360.{field}": True})
    assert tasks.sha256(before) == tasks.sha256(found)
    assert found.metric == name
    assert found.metric_options == dict(before.metric_options) | options
    assert (found.metric, found.metric_options) != (
        before.metric,
        before.metric_options,
    )


def test_scores_of_official_chunks_are_averaged(root):
    found = load(root, "deepsea", "official")
    assert found.metric_options == {"chunk": 1008}  # 63 batches of 16
    options = {"nas360.chunk": 3, "nas360.select_on_test": True}
    found = load(root, "ecg", **options, **{"nas360.by_window": True})
    y = found.splits["test"]["y"]
    logits = np.random.default_rng(0).normal(size=(len(y), 4)).astype(np.float32)
    whole = metrics.make("1-f1")
    parts = [
        metrics.score(whole, logits[at : at + 3], y[at : at + 3])
        for at in range(0, len(y), 3)
    ]
    chunked = metrics.make(found.metric, found.metric_options)
    assert metrics.score(chunked, logits, y) == pytest.approx(np.mean(parts))
    assert metrics.score(whole, logits, y) != pytest.approx(np.mean(parts))


def test_missing_folder_and_files_are_said(root, tmp_path):
    with pytest.raises(errors.InputError, match="data.path is empty; allowed: the "):
        load("", "ecg")
    with pytest.raises(errors.InputError, match="challenge2017.pkl"):
        load(tmp_path, "ecg")


# ---------------------------------------------------------------------- hyperparameters
# Optimiser, rate over that of one batch, decay, batch, parts of it, epochs, warm-up,
# end of the decay, clipping norm, label epochs, stage 1 and label samples.
PUBLISHED = {
    "cifar100": ("sgd", 1e-4, 1e-3, 32, 32, 100, 5, 200, 0, 5, 128, 16 * 100),
    "spherical": ("adamw", 1e-4, 0.1, 28, 4, 60, 5, 60, 0, 3, 128, 16 * 100),
    "darcy_flow": ("adamw", 1e-3, 5e-3, 4, 1, 100, 5, 100, 0, 5, 128, 20 * 10),
    "psicov": ("adam", 5e-6, 1e-5, 1, 32, 10, 5, 100, 0, 4, 64, 16 * 10),
    "cosmic": ("adamw", 1e-3, 0, 4, 1, 60, 5, 60, 0, 2, 128, 28 * 10),
    "ninapro": ("adam", 1e-4, 1e-5, 28, 1, 60, 5, 60, 1, 4, 128, 16 * 18),
    "fsd50k": ("adam", 1e-4, 5e-5, 32, 1, 100, 5, 100, 0, 6, 128, 16 * 10),
    "ecg": ("sgd", 1e-6, 0.1, 4, 16, 15, 5, 200, 0, 2, 128, 28 * 4),
    "satellite": ("adamw", 3e-5, 3e-6, 16, 4, 60, 5, 60, 0, 3, 128, 32 * 24),
    "deepsea": ("adam", 1e-5, 0, 16, 1, 13, 10, 25, 1, 2, 64, 16 * 10),
}


@pytest.mark.parametrize("task", nas360.TASKS)
def test_paper_scale_has_the_published_values(task):
    name, lr, decay, batch, parts, epochs, warm, end, clip, label, num, labels = (
        PUBLISHED[task]
    )
    config = nas360.get_config(f"{task},scale=paper")
    main.check(config)
    stage2, optim = config.stage2, config.stage2.optim
    assert (stage2.batch_size, stage2.accumulate) == (batch * parts, parts)
    assert (stage2.num_epochs, optim.name, optim.clip) == (epochs, name, clip)
    # Their gradients of parts are added, ours averaged.
    assert optim.lr == pytest.approx(lr * (parts if name == "sgd" else 1))
    assert optim.weight_decay == decay and optim.b2 == 0.98
    assert optim.b1 == (0.99 if task == "ecg" else 0.9)
    assert optim.warmup_frac * epochs == pytest.approx(warm)
    assert optim.end_factor == pytest.approx((end - epochs) / (end - warm))
    assert config.stage1.batch_size == num
    assert config.stage1.label_batch_size == labels
    train = nas360.TASKS[task].num_train
    assert config.stage1.num_label_steps == label * -(-train // labels)
    assert config.stage1.optim.lr == pytest.approx(10 * lr)
    weights = {"fsd50k": 10.0, "deepsea": 4.0}
    assert config.data.pos_weight == weights.get(task, 1.0)
    assert config.data.num_samples == config.data.num_test == 0


@pytest.mark.parametrize("task", nas360.TASKS)
def test_demo_has_at_most_64_tokens(task):
    shapes = {
        **{"cifar100": (32, 32), "spherical": (60, 60), "darcy_flow": (85, 85)},
        **{"psicov": (512, 512), "cosmic": (128, 128), "ninapro": (16, 52)},
        **{"fsd50k": (96, 102), "ecg": (1000,), "satellite": (46,)},
        "deepsea": (1000,),
    }
    patch = nas360.get_config(task).embedder.patch
    assert np.prod([-(-n // patch) for n in shapes[task]]) <= 64
    for scale in ("demo", "quick"):
        main.check(nas360.get_config(f"{task},scale={scale}"))
