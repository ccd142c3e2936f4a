"""Your own arrays: one file or folder, nothing else to say.

    python -m recraft_jax.main --config=configs/custom.py:path=FILE
    python -m recraft_jax.main --config=configs/custom.py:path=FILE,method=nft,scale=quick
    python -m recraft_jax.main --config=configs/custom.py:path=sklearn:digits

FILE is `.npz`, `x.npy` with `y.npy` beside it, HDF5, Zarr, CSV, Parquet, or a folder of
them, with inputs `x` `[n ...]` and targets `y`; in a table every column is an input but
the target, by default the last. `split` (train, val, test) and `group` (what must not
be on two sides) are followed where they are. What kind of task it is, how inputs are
cut and scaled, loss and metric are inferred (`recraft_jax/data/custom.py` has the
rules), printed before training, and fields of the config: `--config.data.kind=regression`
overrides.

`demo` uses at most 2,000 samples for training and validation and 1,000 for testing
(`data.num_samples`, `data.num_test`; 0 is all), `quick` 500, `paper` all.
"""  # noqa: E501

import ml_collections

from configs import common
from recraft_jax import defaults

TASKS = ("custom",)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
    path, rest = _take_path(arg)
    config = defaults.custom(common.parse_arg(rest, TASKS))
    config.data.path = path
    return config


def _take_path(arg: str) -> tuple[str, str]:
    """Take `path=FILE` out of the keys."""
    parts = arg.split(",") if arg else []
    paths = [part for part in parts if part.startswith("path=")]
    if len(paths) != 1 or paths == ["path="]:
        raise ValueError(
            f"path is given {len(paths)} times; allowed: once, path=FILE, a file or "
            "folder of arrays"
        )
    parts.remove(paths[0])
    return paths[0].removeprefix("path="), ",".join(parts)
