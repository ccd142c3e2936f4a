"""What all experiments share: the string argument.

`get_config(arg)` of an experiment file takes `TASK[,key=value...]`. Structural choices
are keys there; every number is a field that `--config.section.name=value` overrides.
Their defaults are those of `recraft_jax/defaults.py`.
"""

import difflib

from recraft_jax.defaults import (
    BACKBONES,
    METHODS,
    NO_BACKBONE,
    PRESETS,
    PROTOCOLS,
    SCALES,
)


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
        "preset": PRESETS[0],
        "seed": 0,
    }
    allowed = {
        "method": METHODS,
        "scale": SCALES,
        "protocol": PROTOCOLS,
        "preset": PRESETS,
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
                    _unknown(key, value, BACKBONES)
                    + ", a hub id (owner/name), or a folder (with a slash)"
                )
        elif key == "seed":
            if not value.isdecimal():
                raise ValueError(f"seed {value!r}; allowed: a whole number from 0 up")
            value = int(value)
        if key in given:
            raise ValueError(f"key {key!r} is given twice")
        given.add(key)
        choice[key] = value
    if choice["method"] in NO_BACKBONE:
        if "backbone" in given:
            raise ValueError(
                f"backbone with method {choice['method']}, which has a model of its "
                "own; allowed: leave it out"
            )
        choice["backbone"] = "none"
    return choice


def _one_of(what: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        raise ValueError(_unknown(what, value, allowed))
    return value


def _unknown(what: str, value: str, allowed: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return f"unknown {what} {value!r}{hint}; allowed: {', '.join(allowed)}"
