"""Predict with finished runs, in the memory of a few samples.

    python -m recraft_jax.predict --workdir=DIR --input=FILE --output=FILE
    python -m recraft_jax.predict --workdir=DIR --workdir=DIR ... --input=FILE --output=FILE

--input is a file or folder as `configs/custom.py` reads them (.npz, .npy, HDF5, Zarr,
CSV, Parquet): the inputs under the name, or the columns, that the run was trained on.
--output is .npz, .h5 or .csv, and is there whole or not at all. It holds `prediction`:
the class, the labels that are on, or the values; and `probabilities` where there are
any. Of several runs (other seeds, or other methods, of one task) it is their mean, with
`spread`, the standard deviation over the runs, and of classes `information`, the mutual
information of class and run in nats: large where the runs are sure and disagree.
"""  # noqa: E501

import contextlib
import math
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import rich.progress

from recraft_jax import cli, errors, outputs, predictor, writer
from recraft_jax.data import arrays_file, rows

NUM_NAMED = 20  # columns that a message lists
OUTPUT_VALUES = 1 << 24  # of a block


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    writer.set_up_logging()
    return cli.run(_predict, argv)


def _predict(argv: Sequence[str]) -> None:
    parser = cli.Parser("predict", __doc__)
    parser.add_argument(
        "--workdir", type=pathlib.Path, action="append", required=True, dest="workdirs"
    )
    parser.add_argument("--input", required=True)
    parser.add_argument("--output", type=pathlib.Path, required=True)
    parser.add_argument("--batch_size", default="128", help="samples of a step")
    given = parser.parse_args(argv)
    batch_size = cli.count("--batch_size", given.batch_size)
    outputs.check(given.output)
    runs = [predictor.load(workdir) for workdir in given.workdirs]
    check_alike(runs, given.workdirs)
    with arrays_file.open_arrays(given.input) as arrays:
        x = inputs(arrays, runs[0])
        found = joined(runs, blocks(x, runs[0]), batch_size)
        labels = runs[0].signature.labels
        with outputs.open_file(given.output, len(x), labels) as file:
            for part in rich.progress.track(
                found, "predict", total=num_blocks(x, runs[0]), transient=True
            ):
                file.append(part)
    print(f"{given.output}: predictions of {len(x)} samples")


def check_alike(
    runs: Sequence[predictor.Predictor], workdirs: Sequence[pathlib.Path]
) -> None:
    """Refuse runs whose predictions cannot be averaged."""
    named = ("kind", "x_shape", "y_shape", "num_outputs", "labels")
    first = runs[0].signature
    for run, workdir in zip(runs, workdirs, strict=True):
        for name in named:
            ours, theirs = getattr(first, name), getattr(run.signature, name)
            if ours != theirs:
                raise errors.InputError(
                    f"{workdir}: {name} is {theirs}, in {workdirs[0]} {ours}; allowed: "
                    "runs of one task"
                )


def inputs(
    arrays: arrays_file.Arrays, run: predictor.Predictor
) -> np.ndarray | rows.Rows:
    """Find the inputs in a file, as they lie there.

    Raises:
      InputError: a column or name that is not there.
    """
    data = run.config.data
    columns = tuple(data.get("columns", ()))
    if arrays.is_table:
        columns = columns or tuple(arrays)
        missing = [name for name in columns if name not in arrays]
        if missing:
            raise errors.InputError(
                f"{arrays.path}: column {missing[0]!r}, which the run was trained on, "
                f"is not there; allowed: all of {', '.join(columns[:NUM_NAMED])}"
                f"{' ...' if len(columns) > NUM_NAMED else ''}"
            )
        return arrays.columns(columns)
    known = (*columns, *arrays_file.X_NAMES)
    names = [name for name in known if name in arrays]
    if not names and len(arrays) == 1:
        names = list(arrays)
    if not names:
        raise errors.InputError(
            f"{arrays.path}: holds {', '.join(arrays)}; allowed: inputs under the name "
            f"{' or '.join(dict.fromkeys(known))}, or one array"
        )
    return arrays[names[0]]


def blocks(x: np.ndarray | rows.Rows, run: predictor.Predictor) -> Iterator[np.ndarray]:
    """Go through the inputs, channels last, a block that fits into memory at a time.

    Raises:
      InputError: another shape, or no numbers.
    """
    axis = run.config.data.get("channels", "last")
    if x.dtype.kind not in "biuf":
        raise errors.InputError(f"inputs of type {x.dtype}; allowed: real numbers")
    for block in rows.blocks(x, _block_size(x, run)):
        yield _channels_last(block, axis, run.signature.x_shape)


def num_blocks(x: np.ndarray | rows.Rows, run: predictor.Predictor) -> int:
    """Number of blocks that `blocks` gives."""
    return -(-len(x) // _block_size(x, run))


def _block_size(x: np.ndarray | rows.Rows, run: predictor.Predictor) -> int:
    """Samples whose inputs and outputs fit into memory."""
    signature = run.signature
    each = math.prod(signature.y_shape or (signature.num_outputs,))
    return min(rows.block_size(x), max(OUTPUT_VALUES // each, 1))


def _channels_last(block: np.ndarray, axis: str, want: tuple[int, ...]) -> np.ndarray:
    if axis == "first" and block.ndim == len(want) + 1:
        return np.moveaxis(block, 1, -1)
    for _ in range(len(want) + 1 - block.ndim):  # one feature, one channel
        block = block[..., None]
    return block


def joined(
    runs: Sequence[predictor.Predictor],
    parts: Iterator[np.ndarray],
    batch_size: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Predict each block with every run and join what they say.

    Yields:
      `prediction`, and what `predictor.together` gives.
    """
    steps = [predictor.make_step(run, batch_size) for run in runs]
    begin = 0
    for block in parts:
        predictor.check(block, runs[0].signature, begin)
        begin += len(block)
        found = predictor.together([step(block) for step in steps])
        yield {"prediction": prediction(found, runs[0].signature.kind)} | found


def prediction(found: Mapping[str, np.ndarray], kind: str) -> np.ndarray:
    """What is predicted: a class, the labels or points that are on, or values."""
    if kind in predictor.HAVE_UNITS:
        return found["values"]
    if kind == "classification":
        return found["probabilities"].argmax(1).astype(np.int32)
    return (found["probabilities"] > 0.5).astype(np.int8)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
