"""Seconds on a CPU, no download: is everything wired?

    python -m recraft_jax.main --config=configs/smoke.py:dense,backbone=FOLDER/ \
        --config.source.path=TABLE

FOLDER holds a small BERT (config.json, model.safetensors, vocab.txt), TABLE lines of
`label<TAB>sentence`. The tests make both.
"""

import ml_collections

from configs import common
from recraft_jax import defaults

TASKS = {"dense": "advection", "classes": "waves", "labels": "tones"}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    choice = common.parse_arg(arg, tuple(TASKS))
    choice["task"] = TASKS[choice["task"]]
    config = defaults.base(choice)
    config.data.num_samples = 60
    config.data.num_test = 12
    # Every fourth cell of advection is kept.
    config.data.num_points = 128 if choice["task"] == "advection" else 32
    config.data.noise = 0.1
    config.data.val_frac = 0.2
    config.embedder.patch = 8
    config.source.name = "table"
    config.source.num_features = 64
    config.fld.num_clusters = 4
    config.stage1.num_steps = min(config.stage1.num_steps, 6)
    config.stage1.batch_size = 12
    config.stage2.num_epochs = 3
    config.stage2.batch_size = 8
    config.stage2.eval_batch_size = 16
    config.log.every_steps = 4
    config.checkpoint.every_steps = 8
    return config
