"""What is real here: TFDS' own builders, files and readers, without TensorFlow.

Only the downloads are replaced, by tiny files of the same layout, and for CIFAR-10 the
PNG encoder (Pillow for TensorFlow's). TFRecord files cannot be written without
TensorFlow: a prepared data set is renamed to them.
"""

import io
import os
import shutil
import sys

import numpy as np
import PIL.Image
import pytest

from recraft_jax import errors
from recraft_jax.data import images, text, tfds

CONLL = """-DOCSTART- -X- -X- O

EU NNP B-NP B-ORG
rejects VBZ B-VP O
German JJ B-NP B-MISC

Zoë NNP B-NP B-PER
Blackburn NNP I-NP I-PER
"""


def _prepare(builder, examples):
    builder._split_generators = lambda manager: {"train": examples(builder)}
    builder.download_and_prepare(file_format="array_record")


@pytest.fixture(scope="module")
def conll_dir(tmp_path_factory):
    from tensorflow_datasets.text import conll2003

    folder = tmp_path_factory.mktemp("conll")
    path = folder / "train.txt"
    path.write_text(CONLL, encoding="utf-8")
    builder = conll2003.Conll2003(data_dir=folder)
    _prepare(builder, lambda builder: builder._generate_examples(path))
    return folder


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), np.uint8)


@pytest.fixture(scope="module")
def cifar_dir(tmp_path_factory, pixels):
    from tensorflow_datasets import image_classification
    from tensorflow_datasets.core.features import image_feature

    def encode(self, image):
        stream = io.BytesIO()
        PIL.Image.fromarray(image).save(stream, "png")
        return stream.getvalue()

    def examples(builder):
        builder.info.features["label"].names = images.CIFAR10_NAMES
        for i, image in enumerate(pixels):
            yield i, {"id": f"train_{i:05d}", "image": image, "label": i % 10}

    folder = tmp_path_factory.mktemp("cifar")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_feature._ImageEncoder, "_encode_image", encode)
        _prepare(image_classification.Cifar10(data_dir=folder), examples)
    return folder


def _refused(read, folder, *parts):
    with pytest.raises(errors.InputError) as info:
        read(str(folder))
    message = str(info.value)
    assert "\n" not in message
    for part in parts:
        assert part in message


def test_conll2003_as_read_conll(conll_dir):
    words, tags = tfds.conll2003(str(conll_dir))
    # TFDS shuffles what it prepares.
    assert sorted(words) == [["EU", "rejects", "German"], ["Zoë", "Blackburn"]]
    want = dict(zip(*map(_rows, text.read_conll(conll_dir / "train.txt")), strict=True))
    assert dict(zip(*map(_rows, (words, tags)), strict=True)) == want


def _rows(rows):
    return [tuple(row) for row in rows]


def test_cifar10(cifar_dir, pixels):
    got = tfds.cifar10(str(cifar_dir))
    assert got.pixels.dtype == np.uint8 and got.labels.dtype == np.int32
    assert got.names == images.CIFAR10_NAMES
    order = [
        int((image == pixels).all(axis=(1, 2, 3)).argmax()) for image in got.pixels
    ]
    assert sorted(order) == list(range(12))
    np.testing.assert_array_equal(got.pixels, pixels[order])
    np.testing.assert_array_equal(got.labels, np.array(order) % 10)


def test_default_folder(conll_dir, monkeypatch):
    import tensorflow_datasets

    seen = {}

    def data_source(name, **options):
        seen.update(options)
        raise ValueError("stop")

    monkeypatch.setattr(tensorflow_datasets, "data_source", data_source)
    _refused(tfds.conll2003, "", "the default folder of TFDS", "builder('conll2003').")
    assert seen == {"split": "train", "data_dir": None, "download": False}


@pytest.mark.parametrize("name", ["cifar10", "conll2003"])
def test_not_prepared(tmp_path, name):
    folder = tmp_path / "none"
    advice = f"builder('{name}', data_dir='{folder}').download_and_prepare("
    _refused(getattr(tfds, name), folder, advice, "file_format='array_record'")
    assert not folder.exists()


def test_tfrecord_and_missing_files(conll_dir, tmp_path):
    folder = shutil.copytree(conll_dir, tmp_path / "copy")
    (info,) = folder.rglob("dataset_info.json")
    (data,) = folder.rglob("*array_record*")
    kept = info.read_text()
    assert '"array_record"' in kept
    info.write_text(kept.replace('"array_record"', '"tfrecord"'))
    _refused(tfds.conll2003, folder, "array_record", "TFRecord files")
    info.write_text(kept)
    assert len(tfds.conll2003(str(folder))[0]) == 2
    data.write_bytes(data.read_bytes()[:-100])
    _refused(tfds.conll2003, folder, "array_record")
    data.unlink()
    _refused(tfds.conll2003, folder, "array_record")


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    _refused(tfds.cifar10, tmp_path, "needs a package", "tensorflow_datasets")


def test_tensorflow_stays_out(conll_dir, cifar_dir):
    assert "tensorflow" not in sys.modules and os.listdir(cifar_dir)
