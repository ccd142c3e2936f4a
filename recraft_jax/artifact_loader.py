"""Run an exported predictor; needs jax and numpy, and nothing else.

This file lies beside the predictor as `load.py`. From Python:

    import load
    predict = load.load("FOLDER")
    outputs = predict(x)

`x` is `[n ...]`, `outputs` a dict of arrays `[n ...]`; `manifest.json` says what they
are. From a shell: `python load.py INPUT.npy OUTPUT.npz`.

The folder holds the program as portable StableHLO (`model.stablehlo`), its weights
(`weights.safetensors`) and the sha256 of every file, which is checked before use. That
finds damage, not malice: who can change a file can change its hash too.
"""

import argparse
import dataclasses
import hashlib
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

FORMAT_VERSION = 1
MANIFEST, MODEL, WEIGHTS = "manifest.json", "model.stablehlo", "weights.safetensors"
# Types of weights and outputs: their names in a safetensors file and in numpy.
DTYPES = {
    **{"F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I8": "int8", "I16": "int16", "I32": "int32"},
    **{"U8": "uint8", "U16": "uint16", "U32": "uint32"},
}


def load(folder, batch_size=32):
    """Check the folder and compile its program for the device that jax uses.

    Args:
      folder: of the artifact.
      batch_size: inputs per run of the program; 1 answers single inputs fastest.

    Returns:
      `predict`: `x [n ...] -> {name: array [n ...]}`, numpy in and out, of any n. It
      carries the facts of `manifest.json` as `predict.manifest`.

    Raises:
      ValueError: a damaged file, or a jax that cannot run the program.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size = {batch_size}; allowed: 1 or more")
    folder = pathlib.Path(folder)
    manifest = verify(folder)
    shape = tuple(manifest["x"]["shape"][1:])
    params = jax.device_put(read_weights(folder / WEIGHTS))
    like = jax.ShapeDtypeStruct((batch_size, *shape), jnp.float32)
    try:
        exported = _exported(manifest, params, (folder / MODEL).read_bytes())
        lowered = jax.jit(lambda p, x: exported.call(p, x)).lower(params, like)
    except Exception as error:  # an older or newer jax can fail in any way
        made = manifest["export"]
        raise ValueError(
            f"{folder / MODEL} does not run with jax {jax.__version__} on "
            f"{jax.default_backend()} ({_first_line(error)}); allowed: jax "
            f"{made['jax']}, which made it, on {', '.join(made['platforms'])}"
        ) from error
    program = lowered.compile()

    def predict(x):
        x = np.asarray(x)
        is_number = np.can_cast(x.dtype, np.float32, "same_kind")
        if x.ndim == 0 or x.shape[1:] != shape or not is_number:
            allowed = ", ".join(map(str, ("n", *shape)))
            raise ValueError(
                f"x is {x.dtype} {list(x.shape)}; allowed: numbers [{allowed}]"
            )
        parts = []
        for start in range(0, max(len(x), 1), batch_size):
            rows = x[start : start + batch_size]
            full = np.zeros(like.shape, np.float32)  # fills up the last batch
            full[: len(rows)] = rows
            outputs = program(params, full)
            parts.append({k: np.asarray(v)[: len(rows)] for k, v in outputs.items()})
        return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}

    predict.manifest = manifest
    return predict


def verify(folder):
    """Check every file of an artifact, and that there are no others.

    Returns:
      The content of its `manifest.json`.

    Raises:
      ValueError: names the first file that is damaged, missing or not part of it.
    """
    folder = pathlib.Path(folder)
    try:
        data = (folder / MANIFEST).read_bytes()
        manifest = _whole(data)
        names = {path.name for path in folder.iterdir()}
        facts = {} if manifest is None else manifest["files"]
        damaged = [name for name in facts if describe(folder / name) != facts[name]]
    except OSError as error:
        raise ValueError(
            f"{error.filename or folder}: cannot be read ({error.strerror}); copy the "
            "artifact again"
        ) from None
    if manifest is None or damaged:
        path = folder / (damaged or [MANIFEST])[0]
        raise ValueError(f"{path}: damaged; copy the artifact again")
    # Importing load.py leaves a __pycache__.
    others = sorted(names - set(facts) - {MANIFEST, "__pycache__"})
    if others:
        raise ValueError(f"{folder / others[0]}: not part of the artifact; remove it")
    if manifest["format_version"] != FORMAT_VERSION:
        raise ValueError(
            f"{folder / MANIFEST}: format_version {manifest['format_version']}; "
            f"allowed: {FORMAT_VERSION}; use the load.py beside it"
        )
    return manifest


def _whole(data):
    """Parse a manifest; None for bytes that are not just those of `seal`."""
    try:
        manifest = json.loads(data)
        return manifest if seal(manifest) == data else None
    except (ValueError, AttributeError):  # not JSON, or not a dict
        return None


def seal(manifest):
    """Return the bytes of a manifest: JSON in one form only, with its own sha256."""
    rest = {name: value for name, value in manifest.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    text = json.dumps({**rest, "sha256": digest}, indent=2, sort_keys=True)
    return f"{text}\n".encode()


def describe(path):
    """Return the sha256 and the size in bytes of a file."""
    digest, size = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            size += len(block)
    return {"sha256": digest.hexdigest(), "size": size}


def read_weights(path):
    """Read a safetensors file: a length, a header in JSON, then the raw values."""
    data = pathlib.Path(path).read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    weights = {}
    for name, facts in json.loads(data[8:start]).items():
        if name != "__metadata__":
            dtype = jnp.dtype(DTYPES[facts["dtype"]])
            at = start + facts["data_offsets"][0]
            weights[name] = np.ndarray(facts["shape"], dtype, data, at)
    return weights


def _exported(manifest, params, module):
    """Rebuild what `jax.export` made.

    Its own `deserialize` needs a package more, flatbuffers. So a function of the same
    signature is exported here, and its program is replaced by the one of the artifact.
    """
    made, outputs = manifest["export"], manifest["outputs"]
    version = made["calling_convention_version"]
    first = export.minimum_supported_calling_convention_version
    last = export.maximum_supported_calling_convention_version
    if not first <= version <= last:
        raise ValueError(f"calling convention {version} is not in {first} to {last}")

    def stand_in(params, x):
        del params
        return {
            name: jnp.zeros((x.shape[0], *out["shape"][1:]), out["dtype"])
            for name, out in outputs.items()
        }

    (b,) = export.symbolic_shape("b")
    exported = export.export(jax.jit(stand_in), platforms=made["platforms"])(
        {k: jax.ShapeDtypeStruct(v.shape, v.dtype) for k, v in params.items()},
        jax.ShapeDtypeStruct((b, *manifest["x"]["shape"][1:]), jnp.float32),
    )
    return dataclasses.replace(
        exported,
        mlir_module_serialized=module,
        module_kept_var_idx=tuple(made["module_kept_var_idx"]),
        calling_convention_version=version,
    )


def _first_line(error):
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def main():
    """Predict for the inputs of a file."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("input", help="an array [n ...], .npy")
    parser.add_argument("output", help="the file to write, .npz")
    parser.add_argument("--batch_size", type=int, default=32)
    args = parser.parse_args()
    try:
        with open(args.input, "rb") as file:
            x = np.lib.format.read_array(file)
        predict = load(pathlib.Path(__file__).resolve().parent, args.batch_size)
        outputs = predict(x)
        for name, value in outputs.items():
            if value.dtype == jnp.bfloat16:  # numpy's files have no such type
                outputs[name] = value.astype(np.float32)
        with open(args.output, "wb") as file:
            np.savez(file, **outputs)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
