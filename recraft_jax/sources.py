"""From a config to the labelled source data of a backbone: text or images.

Which of the two is decided by the backbone: text bodies read text, image bodies look at
images. Both end in a tower, which is all that stage 0 sees.
"""

import pathlib

import ml_collections
import numpy as np

from recraft_jax import assets, errors
from recraft_jax.data import images, text, tfds
from recraft_jax.methods import image_tower, text_tower, towers
from recraft_jax.models import body as bodies
from recraft_jax.models import pretrained

# The first of each is what `source.name = auto` stands for.
TEXTS = ("trec6", "wnut16", "table", "conll", "tfds_conll2003")
IMAGES = ("mnist5k", "cifar10", "npz", "tfds_cifar10")
_NEED_PATH = ("table", "conll", "cifar10", "npz")


def tower(config: ml_collections.ConfigDict, body: bodies.Body) -> towers.Tower:
    """Read the source data that fits a backbone and join the two.

    Raises:
      InputError: an unknown source, one of the other kind, or data that cannot be read.
    """
    name = resolve(config, body)
    if body.modality == "text":
        found = _text(config, name)
        return text_tower.make(found, body.params, body.embed, body.encode)
    return image_tower.make(
        _images(config, name),
        body.params,
        body.embed,
        body.encode,
        size=config.embedder.image_size or body.image_size,
        num_prefix=body.num_prefix,
        mean=body.pixel_mean,
        std=body.pixel_std,
    )


def resolve(config: ml_collections.ConfigDict, body: bodies.Body) -> str:
    """Name of the source data that a run uses.

    Raises:
      InputError: an unknown source, one of the other kind, or no path to it.
    """
    known = TEXTS if body.modality == "text" else IMAGES
    name = known[0] if config.source.name == "auto" else config.source.name
    if name not in known:
        raise errors.InputError(
            f"source.name = {name!r}; allowed for {body.name}, which takes "
            f"{body.modality}: auto, {', '.join(known)}"
        )
    if name in _NEED_PATH and not config.source.path:
        raise errors.InputError(f"source.name = {name!r} needs source.path")
    return name


def _text(config: ml_collections.ConfigDict, name: str) -> text.Text:
    """Read, subsample and tokenise labelled text."""
    section = config.source
    if name == "trec6":
        folder = assets.fetch(name, config.assets.cache)
        units, labels = text.read_trec(folder / "question_labels.txt")
    elif name == "wnut16":
        folder = assets.fetch(name, config.assets.cache)
        units, labels = text.read_conll(folder / "ner.txt")
    elif name == "table":
        units, labels = text.read_table(section.path)
    elif name == "conll":
        units, labels = text.read_conll(section.path)
    else:
        units, labels = tfds.conll2003(section.path)
    chosen = _subset(section, len(units))
    is_sentences = name in ("trec6", "table")
    encode = text.encode_sentences if is_sentences else text.encode_words
    folder = pretrained.find(
        config.backbone,
        revision=config.body.revision or None,
        cache=config.assets.cache,
    )
    units, labels = [units[i] for i in chosen], [labels[i] for i in chosen]
    return encode(folder, units, labels, section.max_length)


def _images(config: ml_collections.ConfigDict, name: str) -> images.Images:
    """Read and subsample labelled images."""
    section = config.source
    if name == "mnist5k":
        folder = assets.fetch(name, config.assets.cache)
        found = images.read_mnist5k(folder / "mnist_5k.csv.gz")
    elif name == "cifar10":
        found = images.read_cifar10(section.path)
    elif name == "npz":
        found = images.read_npz(pathlib.Path(section.path))
    else:
        found = tfds.cifar10(section.path)
    chosen = _subset(section, len(found.labels))
    return found._replace(pixels=found.pixels[chosen], labels=found.labels[chosen])


def _subset(section: ml_collections.ConfigDict, total: int) -> np.ndarray:
    """Rows to use, in order: all, or `source.num_samples` drawn without replacement."""
    if not 0 < section.num_samples < total:
        return np.arange(total)
    order = np.random.default_rng(section.seed).permutation(total)
    return np.sort(order[: section.num_samples])
