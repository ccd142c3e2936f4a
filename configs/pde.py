"""PDE fields to PDE fields: one-shot maps between arrays on a grid.

    python -m recraft_jax.main --config=configs/pde.py                       # darcy16
    python -m recraft_jax.main --config=configs/pde.py:advection,method=nft

darcy16: permeability to pressure on 16 x 16, 1,000 training and 50 test fields that
  ship in a package. advection: a periodic 1-D field at t = 0 to the field at t = 2,
  exact.
"""

import ml_collections

from configs import common

TASKS = ("darcy16", "advection")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    choice = common.parse_arg(arg, TASKS)
    config = common.base(choice)
    if choice["backbone"] == "vit-s":
        config.embedder.image_size = 56  # 16 patches, as many as the text body gets
    if choice["task"] == "advection":
        config.embedder.patch = 16
        config.data.num_samples = 1000
        config.data.num_test = 200
        config.data.num_points = 256
    if choice["scale"] == "quick":
        config.stage1.num_steps = min(config.stage1.num_steps, 10)
        config.stage2.num_epochs = 2
        config.source.num_samples = 600
    if choice["scale"] == "paper":
        _paper(config)
    return config


def _paper(config: ml_collections.ConfigDict) -> None:
    """Set the published values of the nearest PDEBench task (configs PDEDC, PDEADV)."""
    is_darcy = config.task == "darcy16"
    config.stage2.batch_size = 4
    config.stage2.num_epochs = 100 if is_darcy else 200
    config.stage2.optim.name = "adamw" if is_darcy else "adam"
    config.stage2.optim.lr = 1e-4
    config.stage2.optim.new_lr_factor = 1.0
    config.stage2.optim.b2 = 0.98
    config.stage2.optim.weight_decay = 1e-5
    config.stage2.optim.clip = 0.0 if is_darcy else 1.0
    config.stage2.optim.warmup_frac = 5 / config.stage2.num_epochs
    config.stage2.optim.decay = "linear"
    if config.stage1.num_steps:
        config.stage1.num_steps = 2000
    if not is_darcy:
        config.data.num_samples = 9000
        config.data.num_test = 1000
        config.embedder.patch = 1
