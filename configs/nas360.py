"""The ten tasks of NAS-Bench-360, from their official files.

    python -m recraft_jax.data.nas360 --root=DIR --check
    python -m recraft_jax.main --config=configs/nas360.py:ninapro --config.data.path=DIR
    python -m recraft_jax.main --config=configs/nas360.py:ecg,scale=paper,protocol=official,backbone=roberta-base \
        --config.data.path=DIR

DIR is one folder with the files under the names of the benchmark; the first command
says what is there, what is missing and where it is published. Two can also be made:

    python -m recraft_jax.generate --task=darcy_flow --out=DIR
    python -m recraft_jax.generate --task=spherical --out=DIR

cifar100, spherical: which of 100 things a picture shows; the second on a sphere.
darcy_flow: permeability to pressure, 85 x 85.
psicov: features of the residues of a protein to their distances.
cosmic: which pixels of an exposure a cosmic ray has hit.
ninapro: which of 18 gestures, from muscles.
fsd50k: which of 200 sounds are in a clip.
ecg: rhythm of a heart, 4 classes, from windows of a record.
satellite: what grows there, 24 classes, from a year of one pixel.
deepsea: which of 36 features a stretch of DNA has.

Every fault of the released loaders and metrics is a field of `config.nas360` (or, where
it is about standardisation, of `config.data`), set by `protocol=official`;
docs/nas360.md says what each does. `scale=paper` has the published values, which
were used with `swin-base`, for ecg, satellite and deepsea with `roberta-base`.
"""  # noqa: E501

from typing import NamedTuple

import ml_collections

from configs import common
from recraft_jax import defaults


class Task(NamedTuple):
    """A task: published values (ORCA's and RECRAFT's YAML files), and its demo.

    Stage 1 has 60 epochs on 128 samples (`max_samples`), the label term `label_epochs`
    on `label_samples` of each class.
    """

    optim: str
    lr: float
    weight_decay: float
    batch_size: int
    accumulate: int
    num_epochs: int
    label_epochs: int
    label_samples: int
    num_train: int  # as published, without a validation split
    num_labels: int = 10  # that stage 1 sees
    momentum: float = 0.9
    warmup_epochs: int = 5
    decay_epochs: int = 60
    clip: float = 0.0
    max_samples: int = 128
    eval_batch_size: int = 100
    pos_weight: float = 1.0
    max_tokens: int = 512  # of text backbones
    demo_patch: int = 0  # of text backbones, at most 64 tokens


TASKS = {
    "cifar100": Task(
        *("sgd", 1e-4, 1e-3, 32, 32, 100, 5, 16, 50_000, 100),
        decay_epochs=200,
        demo_patch=4,
    ),
    "spherical": Task(
        *("adamw", 1e-4, 0.1, 28, 4, 60, 3, 16, 50_000, 100), demo_patch=8
    ),
    "darcy_flow": Task(
        *("adamw", 1e-3, 5e-3, 4, 1, 100, 5, 20, 1000),
        decay_epochs=100,
        demo_patch=11,
    ),
    "psicov": Task(
        *("adam", 5e-6, 1e-5, 1, 32, 10, 4, 16, 3456),
        decay_epochs=100,
        max_samples=64,
        eval_batch_size=1,
        demo_patch=64,
    ),
    "cosmic": Task(*("adamw", 1e-3, 0.0, 4, 1, 60, 2, 28, 4830), demo_patch=16),
    "ninapro": Task(
        *("adam", 1e-4, 1e-5, 28, 1, 60, 4, 16, 3297, 18), clip=1.0, demo_patch=4
    ),
    "fsd50k": Task(
        *("adam", 1e-4, 5e-5, 32, 1, 100, 6, 16, 40_966),
        decay_epochs=100,
        pos_weight=10.0,
        demo_patch=13,
    ),
    "ecg": Task(
        *("sgd", 1e-6, 0.1, 4, 16, 15, 2, 28, 296_000, 4),
        momentum=0.99,
        decay_epochs=200,
        eval_batch_size=1000,
        max_tokens=64,
        demo_patch=20,
    ),
    "satellite": Task(
        *("adamw", 3e-5, 3e-6, 16, 4, 60, 3, 32, 900_000, 24),
        eval_batch_size=1000,
        demo_patch=2,
    ),
    "deepsea": Task(
        *("adam", 1e-5, 0.0, 16, 1, 13, 2, 16, 74_243),
        clip=1.0,
        max_samples=64,
        warmup_epochs=10,
        decay_epochs=25,
        eval_batch_size=1000,
        pos_weight=4.0,
        demo_patch=16,
    ),
}
NORMED = ("cifar100", "darcy_flow", "ecg", "deepsea")  # by their readers, or one-hot
CHUNK = 1000  # samples of a released evaluation, at least
STAGE1_EPOCHS, MAX_STAGE1_STEPS = 60, 2000


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    choice = common.parse_arg(arg, tuple(TASKS))
    config = defaults.base(choice)
    task = TASKS[choice["task"]]
    is_official = choice["protocol"] == "official"
    config.nas360 = ml_collections.ConfigDict(
        {
            "test_in_train": is_official,  # T2: a quarter of spherical's test images
            "select_on_test": is_official,  # T4: train on all, choose the epoch on test
            "first_length": is_official,  # T8: psicov, the first protein's for all
            "lopsided": is_official,  # T8: psicov, how triangles are averaged
            "padding_counts": is_official,  # psicov: loss outside of the protein
            "random_test_crop": is_official,  # psicov: of proteins longer than a frame
            "chunk": _chunk(task) if is_official else 0,  # T9: scores are averaged
            "shuffled_chunks": is_official,  # T9: deepsea
            "by_window": is_official,  # ecg: judge windows, not records
            "hard_auroc": is_official,  # T10: cosmic, of yes and no
            "ignored_counts": is_official,  # T10: cosmic, as true negatives
            "test_noise": is_official,  # T10: cosmic, sky in test images
            "raw_series": is_official,  # T20: satellite, not standardised
            "boundary_eps": is_official,  # T22: darcy_flow
            "mix_prob": 0.82 if is_official else 0.75,  # fsd50k: RECRAFT's; all others'
        }
    )
    config.fld.raw_clusters = is_official  # T16
    if is_official or choice["task"] in NORMED:
        config.data.scale_x = "none"  # T20
    if choice["task"] == "darcy_flow":
        config.data.scale_y = "unit_gaussian" if is_official else "column"  # T22
    elif is_official:
        config.data.scale_y = "none"
    config.data.pos_weight = task.pos_weight
    config.embedder.patch = task.demo_patch
    if choice["backbone"] == "vit-s":
        config.embedder.image_size = 56
    config.data.num_samples, config.data.num_test = 600, 200
    config.stage2.optim.new_lr_factor = 10.0
    config.stage2.eval_batch_size = 64
    if choice["task"] == "psicov":  # a sample has 15 million values
        config.data.num_samples, config.data.num_test = 80, 20
        config.stage1.batch_size, config.stage2.batch_size = 20, 4
        config.stage2.eval_batch_size = 8
    if choice["scale"] == "quick":
        config.data.num_samples //= 2
        config.stage1.num_steps = min(config.stage1.num_steps, 10)
        config.stage2.num_epochs //= 4
    if choice["method"] in defaults.NO_BACKBONE:
        config.stage2.optim.new_lr_factor = 1.0
        config.fno.modes = 8
    if choice["scale"] == "paper":
        _paper(config, task)
    return config


def _chunk(task: Task) -> int:
    """Whole batches until there are 1,000 samples."""
    return -(-CHUNK // task.batch_size) * task.batch_size


def _paper(config: ml_collections.ConfigDict, task: Task) -> None:
    """Set the published values.

    The released code adds the gradients of `accumulate` batches, here they are
    averaged: only for sgd does that matter, whose learning rate is so much larger here.
    """
    config.data.num_samples = config.data.num_test = 0
    config.embedder.patch = 0
    config.embedder.max_tokens = task.max_tokens
    stage2 = config.stage2
    stage2.eval_batch_size = task.eval_batch_size
    if config.method in defaults.NO_BACKBONE:
        return
    stage2.batch_size = task.batch_size * task.accumulate
    stage2.accumulate = 1 if config.method == "pare" else task.accumulate
    stage2.num_epochs = task.num_epochs
    lr = task.lr * (task.accumulate if task.optim == "sgd" else 1)
    for optim in (stage2.optim, config.stage1.optim):
        optim.name, optim.b1, optim.b2 = task.optim, task.momentum, 0.98
    stage2.optim.lr = lr
    stage2.optim.new_lr_factor = 1.0
    stage2.optim.weight_decay = task.weight_decay
    stage2.optim.clip = task.clip
    stage2.optim.warmup_frac = task.warmup_epochs / task.num_epochs
    stage2.optim.decay = "linear"
    left = (task.decay_epochs - task.num_epochs) / (
        task.decay_epochs - task.warmup_epochs
    )
    stage2.optim.end_factor = left
    if config.stage1.num_steps:
        stage1 = config.stage1
        stage1.batch_size = task.max_samples
        if config.preset != "official":  # which takes one step an epoch
            epoch = -(-task.num_train // task.max_samples)
            stage1.num_steps = min(STAGE1_EPOCHS * epoch, MAX_STAGE1_STEPS)
        stage1.label_batch_size = task.label_samples * task.num_labels
        chunks = -(-task.num_train // stage1.label_batch_size)
        stage1.num_label_steps = task.label_epochs * chunks
        stage1.optim.lr = 10 * task.lr if task.lr <= 1e-3 else task.lr
