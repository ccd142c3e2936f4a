"""A fitted predictor as a folder that runs with jax and numpy alone.

The predictor is exported as StableHLO for any batch size on CPU, CUDA and TPU, beside
its weights, the facts of the fit and a loader: `artifact_loader.py`, which knows the
format and does not import this package.
"""

import contextlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy
from jax import export

from recraft_jax import artifact_loader, errors, paths, writer

PLATFORMS = ("cpu", "cuda", "tpu")
LOADER, README = "load.py", "README.md"

_MAX_SHOWN = 300  # characters of a fact in the README


def write(
    out: pathlib.Path,
    fn: Callable[[dict[str, jax.Array], jax.Array], dict[str, jax.Array]],
    params: Mapping[str, np.ndarray],
    *,
    x_shape: Sequence[int],
    about: Mapping[str, Any],
) -> None:
    """Write the folder; it is there whole or not at all.

    The program holds no path of this machine. Weights that `fn` does not use are left
    out.

    Args:
      out: the folder, new or empty, on a disk of this machine.
      fn: `(params, x [b *x_shape] float32) -> {name: array [b ...]}`, pure; what it
        makes of an input may not depend on the others of the batch, which the loader
        fills up with zeros.
      params: flat, by path.
      x_shape: of one input.
      about: facts for whoever uses it, JSON: task, units, labels, scores and the like.

    Raises:
      InputError: a folder that holds something, a type of weights that the format has
        not, or facts that are not JSON.
      ValueError: `fn` returns something else.
    """
    out = _check_place(out)
    about = _check_json(about)
    params = {name: _array(name, params[name]) for name in sorted(params)}
    used, exported = _export(fn, params, tuple(x_shape))
    weights = {name: params[name] for name in used}
    manifest = {
        "format_version": artifact_loader.FORMAT_VERSION,
        "about": about,
        "x": {"shape": ["b", *x_shape], "dtype": "float32"},
        "outputs": _outputs(exported),
        "export": {
            "calling_convention_version": exported.calling_convention_version,
            "module_kept_var_idx": list(exported.module_kept_var_idx),
            "platforms": list(exported.platforms),
            "jax": jax.__version__,
            "numpy": np.__version__,
        },
    }
    loader = pathlib.Path(artifact_loader.__file__)
    files = {
        artifact_loader.MODEL: exported.mlir_module_serialized,
        artifact_loader.WEIGHTS: safetensors.numpy.save(weights),
        LOADER: loader.read_bytes(),
        README: _readme(manifest),
    }
    with _whole_folder(out) as folder:
        for name, content in files.items():
            writer.write_atomically(folder / name, content)
        manifest["files"] = {
            name: artifact_loader.describe(folder / name) for name in files
        }
        sealed = artifact_loader.seal(manifest)
        writer.write_atomically(folder / artifact_loader.MANIFEST, sealed)
        artifact_loader.verify(folder)


def _check_place(out: pathlib.Path) -> pathlib.Path:
    if not paths.is_local(out):
        raise errors.InputError(f"{out}: allowed: a folder on a disk of this machine")
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise errors.InputError(f"{out} is there; allowed: a new or empty folder")
    return out


def _check_json(about: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(about), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise errors.InputError(
            f"facts about the predictor: {error}; allowed: text, finite numbers, true, "
            "false, null, and lists and dicts of these"
        ) from None


def _array(name: str, leaf: Any) -> np.ndarray:
    """Return a leaf as safetensors takes it: in this machine's byte order, dense."""
    array = np.asarray(leaf)
    allowed = artifact_loader.DTYPES.values()
    if array.dtype.name not in allowed:
        raise errors.InputError(
            f"weights {name} are {array.dtype}; allowed: {', '.join(allowed)}"
        )
    return np.asarray(array, array.dtype.newbyteorder("="), order="C")


def _export(
    fn: Callable, params: Mapping[str, np.ndarray], x_shape: tuple[int, ...]
) -> tuple[list[str], export.Exported]:
    """Export `fn` as a function of the weights it uses, which are named."""
    likes = {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in params.items()}
    # With a batch of unknown size every argument counts as used.
    pair = jax.ShapeDtypeStruct((2, *x_shape), jnp.float32)
    kept = export.export(jax.jit(fn), platforms=PLATFORMS[:1])(likes, pair)
    used = [n for i, n in enumerate(likes) if i in kept.module_kept_var_idx]

    def predict(params, x):
        unused = {n: jnp.zeros(v.shape, v.dtype) for n, v in likes.items()}
        return fn({**unused, **params}, x)

    (b,) = export.symbolic_shape("b")
    batch = jax.ShapeDtypeStruct((b, *x_shape), jnp.float32)
    with _without_places():
        exported = export.export(jax.jit(predict), platforms=PLATFORMS)(
            {name: likes[name] for name in used}, batch
        )
    if exported.nr_devices != 1:
        raise ValueError(f"a function of {exported.nr_devices} devices; allowed: 1")
    return used, exported


@contextlib.contextmanager
def _without_places() -> Iterator[None]:
    """Leave the lines and paths of sources out of what is exported meanwhile."""
    option = "jax_traceback_in_locations_limit"
    before = getattr(jax.config, option)
    jax.config.update(option, 0)
    try:
        yield
    finally:
        jax.config.update(option, before)


def _outputs(exported: export.Exported) -> dict[str, dict[str, Any]]:
    """Describe the outputs: shapes with "b", and types."""
    outputs = jax.tree.unflatten(exported.out_tree, exported.out_avals)
    b = exported.in_avals[-1].shape[0]
    allowed = artifact_loader.DTYPES.values()
    is_right = isinstance(outputs, dict) and all(
        isinstance(name, str)
        and getattr(out, "shape", ())[:1] == (b,)
        and all(isinstance(n, int) for n in out.shape[1:])
        and out.dtype.name in allowed
        for name, out in outputs.items()
    )
    if not is_right or not outputs:
        raise ValueError(
            f"the function returns {outputs}; allowed: a dict by name of arrays "
            f"[b ...] of {', '.join(allowed)}"
        )
    return {
        name: {"shape": ["b", *out.shape[1:]], "dtype": out.dtype.name}
        for name, out in outputs.items()
    }


@contextlib.contextmanager
def _whole_folder(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Lend a folder to fill, which becomes `out` at the end, or is taken away."""
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield folder
        folder.chmod(0o755)
        folder.rename(out)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _readme(manifest: Mapping[str, Any]) -> str:
    about, made = manifest["about"], manifest["export"]

    def array(facts):
        return f"{facts['dtype']} [{', '.join(map(str, facts['shape']))}]"

    outputs = [f"- `{name}`: {array(v)}" for name, v in manifest["outputs"].items()]
    facts = [f"- {name}: {_shown(value)}" for name, value in about.items()]
    return f"""# {_shown(about.get("task", "Fitted predictor"))}

A fitted predictor: a program in StableHLO, its weights, and a loader. It needs jax and
numpy, nothing else, and runs on {", ".join(made["platforms"])}.

```python
import sys; sys.path.insert(0, "FOLDER")  # the folder of this file
import load
predict = load.load("FOLDER")
outputs = predict(x)
```

Or `python load.py INPUT.npy OUTPUT.npz`. Every file is checked against its sha256
before use.

## Input and outputs

Numpy arrays with any number b of samples; `x` is {array(manifest["x"])}, `outputs` is a
dict with

{chr(10).join(outputs)}

## Facts

As they stand in `manifest.json`, shortened:

{chr(10).join(facts) or "none were given"}

## Versions

Format {manifest["format_version"]}, made with jax {made["jax"]} and numpy \
{made["numpy"]}; calling convention
{made["calling_convention_version"]} of `jax.export`. Newer versions of jax run it as \
long as they read that
convention; older ones may not.

## Licence

Weights that come from a pretrained backbone keep the licence of that backbone.
"""


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split())
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]} ..."
