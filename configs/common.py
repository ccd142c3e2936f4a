"""What all experiments share: the string argument, methods, scales and default values.

`get_config(arg)` of an experiment file takes `TASK[,key=value...]`. Structural choices
are keys there; every number is a field that `--config.section.name=value` overrides.
"""

import difflib

import ml_collections

METHODS = ("recraft", "fa", "fld", "nft", "scratch")
BACKBONES = ("minilm",)
SCALES = ("demo", "quick", "paper")
PROTOCOLS = ("corrected", "official")


def parse_arg(arg: str, tasks: tuple[str, ...]) -> dict:
    """Parse `TASK[,key=value...]`; the first task is the default.

    Args:
      arg: what follows the colon of `--config=FILE:`.
      tasks: task names of the file.

    Raises:
      ValueError: an unknown task, key or value, naming the allowed ones.
    """
    choice = {
        "task": tasks[0],
        "method": METHODS[0],
        "backbone": BACKBONES[0],
        "scale": SCALES[0],
        "protocol": PROTOCOLS[0],
        "seed": 0,
    }
    allowed = {
        "method": METHODS,
        "scale": SCALES,
        "protocol": PROTOCOLS,
    }
    given = set()
    for index, part in enumerate(arg.split(",") if arg else ()):
        key, sign, value = part.partition("=")
        if not sign and index == 0:
            key, value = "task", _one_of("task", key, tasks)
        elif key == "task" or key not in choice:
            keys = tuple(k for k in choice if k != "task")
            raise ValueError(_unknown("key", key, keys))
        elif key in allowed:
            _one_of(key, value, allowed[key])
        elif key == "backbone" and "/" not in value:
            if value not in BACKBONES:
                raise ValueError(
                    _unknown(key, value, BACKBONES) + ", or a folder (with a slash)"
                )
        elif key == "seed":
            if not value.isdecimal():
                raise ValueError(f"seed {value!r}; allowed: a whole number from 0 up")
            value = int(value)
        if key in given:
            raise ValueError(f"key {key!r} is given twice")
        given.add(key)
        choice[key] = value
    return choice


def base(choice: dict) -> ml_collections.ConfigDict:
    """Build the defaults of every experiment, at `demo` scale.

    Args:
      choice: of `parse_arg`.
    """
    config = ml_collections.ConfigDict(choice)
    config.data = ml_collections.ConfigDict(
        {
            "val_frac": 0.1,
            "split_seed": 0,
            "scale_x": "channel",  # standardisation: channel, point or none
            "scale_y": "channel",
            "num_samples": 0,  # of generated tasks: training and validation
            "num_test": 0,
            "num_points": 0,
            "noise": 0.0,
            "seed": 2022,
        }
    )
    config.assets = ml_collections.ConfigDict({"cache": ""})
    config.source = ml_collections.ConfigDict(
        {
            "name": "trec6",  # trec6, wnut16, table (label<TAB>text) or conll
            "path": "",  # of your own text, for table and conll
            "num_sentences": 3000,  # 0 is all
            "max_length": 48,
            "num_features": 1024,
            "test_frac": 0.2,
            "seed": 0,
        }
    )
    config.embedder = ml_collections.ConfigDict({"patch": 4})
    config.fa = ml_collections.ConfigDict({"omega": 0.4, "num_source": 256})
    config.fld = ml_collections.ConfigDict(
        {"kind": "mi", "weight": 1.0, "num_clusters": 10}
    )
    config.stage1 = ml_collections.ConfigDict(
        {"num_steps": 40, "batch_size": 80, "optim": _optim(lr=3e-3)}
    )
    config.stage2 = ml_collections.ConfigDict(
        {
            "num_epochs": 8,
            "batch_size": 16,
            "freeze_embedder": False,
            "eval_batch_size": 128,
            "optim": _optim(lr=3e-4, new_lr_factor=10.0),
        }
    )
    config.log = ml_collections.ConfigDict({"every_steps": 50})
    config.checkpoint = ml_collections.ConfigDict({"every_steps": 250})
    if choice["method"] == "fa":
        config.fld.weight = 0.0
    if choice["method"] == "fld":
        config.fa.omega = 0.0
    if choice["method"] in ("nft", "scratch"):
        config.stage1.num_steps = 0
    return config


def _optim(lr: float, new_lr_factor: float = 1.0) -> ml_collections.ConfigDict:
    return ml_collections.ConfigDict(
        {
            "name": "adamw",
            "lr": lr,
            "new_lr_factor": new_lr_factor,  # of embedder and head, over the body's
            "weight_decay": 1e-4,
            "b1": 0.9,
            "b2": 0.999,
            "clip": 1.0,
            "warmup_frac": 0.1,
            "decay": "cosine",
        }
    )


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(_unknown(what, value, allowed))
    return value


def _unknown(what: str, value: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {value!r}{hint}; allowed: {', '.join(allowed)}"
