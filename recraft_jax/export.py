"""Make a finished run into a folder that predicts with jax and numpy alone.

    python -m recraft_jax.export --workdir=DIR --out=DIR

The folder holds the predictor as StableHLO for CPU, CUDA and TPU, its weights
(safetensors), what goes in and comes out (manifest.json), a loader and a README. It
needs neither this package nor the data nor the backbone; the loader refuses a file of
which a byte has changed.
"""

import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from recraft_jax import artifact, cli, errors, predictor, writer

MEANING = {
    "dense": "values on the grid of the input, in the units of the targets",
    "distance": "distances on the grid of the input, in the units of the targets",
    "regression": "values in the units of the targets",
    "classification": "logits, and probabilities that sum to 1 over the classes",
    "multilabel": "logits, and the probability of each label by itself",
    "segmentation": "logits, and the probability of each point by itself",
}


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    writer.set_up_logging()
    return cli.run(_export, argv)


def _export(argv: Sequence[str]) -> None:
    parser = cli.Parser("export", __doc__)
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    given = parser.parse_args(argv)
    found = predictor.load(given.workdir)
    artifact.write(
        given.out,
        found.forward,
        found.params,
        x_shape=found.signature.x_shape,
        about=about(found, given.workdir),
    )
    size = sum(path.stat().st_size for path in given.out.iterdir()) / 1e6
    print(f"{given.out}: {size:.1f} MB; README.md there says how to load it")


def about(found: predictor.Predictor, workdir: pathlib.Path) -> dict[str, Any]:
    """Say what a predictor is, for its manifest.

    Raises:
      InputError: the run is not finished.
    """
    try:
        results = json.loads((workdir / "results.json").read_text())
    except (OSError, ValueError) as error:
        raise errors.InputError(f"{workdir} holds no finished run: {error}") from None
    config, signature = found.config, found.signature
    scales = {
        "x": config.data.scale_x,
        "y": config.data.scale_y if signature.kind in predictor.HAVE_UNITS else "none",
    }
    named = ("task", "method", "backbone_name", "protocol", "seed", "metric", "better")
    return {name: results[name] for name in named} | {
        "kind": signature.kind,
        "input": "in the units of the training data, channels last; standardised "
        "within the program",
        "output": MEANING[signature.kind],
        "labels": list(signature.labels),
        "standardisation": scales,
        "normalisation": {
            name: _facts(getattr(signature, f"scale_{name}")) for name in scales
        },
        "scores": {"test": results["test"]["best_val"], "val": results["val"]["best"]},
        "baselines": results["baselines"],
        "data": results["data"],
        "made_by": results["versions"],
    }


def _facts(scale: Any) -> Mapping[str, Any]:
    """Mean and deviation where they are few; elsewhere they are among the weights."""
    return {
        part: value.tolist() if value.size <= 64 else f"array {list(value.shape)}"
        for part, value in scale._asdict().items()
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
