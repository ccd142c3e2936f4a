"""Real tasks whose data ship in packages, far from text: sounds so far.

python -m recraft_jax.main --config=configs/offline.py            # spoken_digits
"""

import ml_collections

from configs import common

TASKS = ("spoken_digits",)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    choice = common.parse_arg(arg, TASKS)
    config = common.base(choice)
    config.data.num_samples = 250
    config.data.num_test = 600
    config.data.val_frac = 0.2
    config.embedder.patch = 2
    config.stage2.num_epochs = 12
    config.log.every_steps = 50
    return config
