"""Real tasks whose data ship in packages, most of them far from text.

python -m recraft_jax.main --config=configs/offline.py
python -m recraft_jax.main --config=configs/offline.py:peptides,method=nft
python -m recraft_jax.main --config=configs/offline.py:smartwatch,scale=quick

spoken_digits: which digit is said, from 13 MFCC channels over 32 frames. 250 recordings
  for training and validation (200 and 50), 600 for testing, stratified by digit. The
  file holds no speaker, so no speaker-disjoint split is possible: every speaker is in
  every split.
darcy16: permeability to pressure on 16 x 16.
burgers16: a velocity on 16 points to itself some time later.
gene_families: the family of a gene, from its first 512 bases. Genes that begin with the
  same 64 bases are never on two sides.
smartwatch: which of seven exercises, from two seconds of motion. The people who test
  are others than those who train, and those who validate are others again.
plaid: which of eleven appliances, from what it draws when it starts.
japanese_vowels: which of nine speakers, from 12 cepstral coefficients.
tecator: how much fat is in meat, from its near-infrared spectrum (regression).
peptides: antimicrobial or not, from 32 residues.

Where samples are windows, copies or variants of each other, the readers in
recraft_jax/data say what is done about it.

spoken_digits, two cores of a shared AMD EPYC, seed 0, error on test: nft 0.150 (commit
02bd94a), recraft 0.172 (commit 6a13410, omega 0.4 and 1e-3 in stage 1), logistic
regression 0.167, majority 0.900. Other splits of the same 250 recordings move nft
between 0.15 and 0.18, so these differences say nothing.

Patch, epochs and the learning rate of stage 2 of spoken_digits have the lowest
validation error (seed 0) of the few settings tried; the other tasks share its learning
rates, but for the factor of embedder and head: 3, or 10 on smartwatch and peptides and
30 on fields, where that was lower on validation (nft, seed 0, `quick`). Stage 1 is set
so that FA and FLD fall on the validation splits (README.md).
"""

from typing import NamedTuple

import ml_collections

from configs import common
from recraft_jax import defaults


class Size(NamedTuple):
    """How much of a task is used, and for how long. 0 samples are all there are."""

    num_samples: int  # training and validation
    num_test: int
    val_frac: float
    patch: int  # of text backbones
    new_lr: float  # of embedder and head, over the body's
    num_epochs: int
    quick_samples: int
    quick_epochs: int


SIZES = {
    "spoken_digits": Size(250, 600, 0.2, 2, 3.0, 12, 250, 4),  # 16 tokens
    "darcy16": Size(0, 0, 0.1, 4, 30.0, 8, 400, 2),  # 16
    "burgers16": Size(0, 0, 0.1, 1, 30.0, 8, 400, 2),  # 16
    "gene_families": Size(1000, 600, 0.2, 16, 3.0, 4, 300, 2),  # 32
    "smartwatch": Size(500, 600, 0.15, 5, 10.0, 8, 350, 2),  # 20
    "plaid": Size(0, 0, 0.2, 32, 3.0, 12, 0, 2),  # 16
    "japanese_vowels": Size(0, 0, 0.2, 2, 3.0, 15, 0, 4),  # 15
    "tecator": Size(0, 0, 0.2, 5, 3.0, 30, 0, 6),  # 20
    "peptides": Size(500, 500, 0.2, 1, 10.0, 6, 300, 2),  # 32
}
TASKS = tuple(SIZES)
DENSE = ("darcy16", "burgers16")
OWN_MODEL_EPOCHS = 4  # times those of a backbone, whose steps cost several times more


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    choice = common.parse_arg(arg, TASKS)
    config = defaults.base(choice)
    size = SIZES[choice["task"]]
    config.data.num_samples = size.num_samples
    config.data.num_test = size.num_test
    config.data.val_frac = size.val_frac
    config.embedder.patch = size.patch
    if choice["task"] == "darcy16" and choice["backbone"] == "vit-s":
        config.embedder.image_size = 56  # 16 patches, as many as the text body gets
    config.stage1.num_steps = min(config.stage1.num_steps, 20)
    config.stage1.optim.lr = 3e-3
    config.stage2.num_epochs = size.num_epochs
    config.stage2.optim.new_lr_factor = size.new_lr
    if choice["task"] in DENSE:
        config.data.scale_y = "point"  # every model starts at the mean field
    if choice["scale"] == "quick":
        config.data.num_samples = size.quick_samples
        config.stage1.batch_size = min(config.stage1.batch_size, 40)
        config.stage2.num_epochs = size.quick_epochs
        config.unet.features = 16
    if choice["method"] in defaults.NO_BACKBONE:
        config.fno.modes = 8
        config.stage2.optim.new_lr_factor = 1.0
        config.stage2.num_epochs *= OWN_MODEL_EPOCHS
    if choice["scale"] == "paper":
        _paper(config)
    return config


def _paper(config: ml_collections.ConfigDict) -> None:
    """Set the published values of Satellite; not run yet.

    All samples are used, but for the 600 that test spoken_digits. No run was published
    on any of the tasks: `configs/pde.py` has the values of their Darcy flow for
    darcy16.
    """
    defaults.published_1d(config)
    if config.task == "spoken_digits":
        config.data.num_samples, config.data.num_test = 2400, 600
        config.data.val_frac = 0.1
        config.embedder.patch = 1
