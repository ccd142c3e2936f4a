"""The only door to TensorFlow Datasets: source data that its user has prepared.

`tfds.data_source` reads array_record files without TensorFlow. Preparing them may need
it (images are encoded by it), so that is done once, elsewhere if need be, and by hand:
nothing is ever downloaded or prepared here. Only the training split is read.
"""

from typing import Any

import numpy as np

from recraft_jax import errors
from recraft_jax.data import images, text


def cifar10(data_dir: str) -> images.Images:
    """Read CIFAR-10, in the order of the prepared files.

    Args:
        data_dir: Where TFDS keeps its data; "" is its own default.

    Raises:
        InputError: See `_records`.
    """
    records, features = _records("cifar10", data_dir)
    return images.Images(
        np.stack([record["image"] for record in records]),
        np.array([record["label"] for record in records], np.int32),
        tuple(features["label"].names),
    )


def conll2003(data_dir: str) -> tuple[list[list[str]], list[list[str]]]:
    """Read the words of CoNLL-2003 and their entity types, as `text.read_conll` does.

    Sentences without a word (TFDS ends each file with one) are left out.

    Args:
        data_dir: Where TFDS keeps its data; "" is its own default.

    Raises:
        InputError: See `_records`.
    """
    records, features = _records("conll2003", data_dir)
    names = features["ner"].feature.names
    records = [record for record in records if len(record["tokens"])]
    words = [[str(word, "utf-8") for word in record["tokens"]] for record in records]
    tags = [[text.entity_type(names[k]) for k in record["ner"]] for record in records]
    return words, tags


def _records(name: str, data_dir: str) -> tuple[list[dict[str, Any]], Any]:
    """Return the decoded training examples and what TFDS knows of their features.

    Raises:
        InputError: A package is missing, or the data set is not prepared, prepared in
            another format or damaged; the one-line message says how to prepare it.
    """
    try:
        import tensorflow_datasets

        source = tensorflow_datasets.data_source(
            name, split="train", data_dir=data_dir or None, download=False
        )
        records = list(source)
        if not records:
            raise ValueError("no examples")
        return records, source.dataset_info.features
    except ImportError as error:
        raise errors.InputError(
            f"reading {name} with TFDS needs a package: {_first_line(error)}"
        ) from error
    except Exception as error:  # TFDS raises nearly anything
        where = f", data_dir={data_dir!r}" if data_dir else ""
        reason = _first_line(error)
        if isinstance(error, NotImplementedError):  # TFDS says TFRecord of either
            reason = "there is none, or one of TFRecord files"
        raise errors.InputError(
            f"{data_dir or 'the default folder of TFDS'}: holds no {name} prepared as "
            f"array_record ({reason}); prepare it once, where TensorFlow is installed: "
            f"tensorflow_datasets.builder({name!r}{where}).download_and_prepare("
            "file_format='array_record')"
        ) from error


def _first_line(error: Exception) -> str:
    lines = [line.strip(" *") for line in str(error).splitlines()]
    return next(filter(None, lines), type(error).__name__).rstrip(".:")
