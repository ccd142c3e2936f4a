"""Tests run on two virtual CPU devices, in float32, with no network."""

import atexit
import json
import os
import pathlib
import shutil
import tempfile

# Subprocesses inherit these; this process has not imported JAX yet.
os.environ["JAX_PLATFORMS"] = "cpu"

# Tests build the same programs again and again, in two workers: compiled once for all.
# The first process makes the folder, those it starts find it.
if "RECRAFT_JAX_TEST_PROGRAMS" not in os.environ:
    folder = tempfile.mkdtemp(prefix="programs-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["RECRAFT_JAX_TEST_PROGRAMS"] = folder
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ["RECRAFT_JAX_TEST_PROGRAMS"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax

# Nearly all the time of the tests is compilation; with these it is 40 % less, here and
# in subprocesses. XLA refuses flags it does not know, and newer ones may drop some.
if jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = " ".join(
        (
            os.environ.get("XLA_FLAGS", ""),
            "--xla_cpu_use_fusion_emitters=false",
            "--xla_llvm_disable_expensive_passes=true",
            "--xla_backend_optimization_level=1",
        )
    )

import numpy as np
import pytest
import safetensors.numpy

jax.config.update("jax_num_cpu_devices", 2)
jax.config.update("jax_default_matmul_precision", "float32")

ROOT = pathlib.Path(__file__).parents[1]
WORDS = (
    "who what where when why how many is was the a of in city river man woman year "
    "number name cost old first long high make mean does did play write war star"
).split()


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture
def keys_are_used_once():
    """Refuse to draw twice from one key; it doubles the time of tracing."""
    with jax.debug_key_reuse(True):
        yield


@pytest.fixture(scope="session")
def backbone(tmp_path_factory):
    """A folder in Hugging Face's layout with a tiny BERT of random weights."""
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def write_backbone(folder):
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = {
        "model_type": "bert",
        "vocab_size": len(vocabulary),
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "hidden_act": "gelu",
    }
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(bert_tensors(config), str(folder / "model.safetensors"))
    return folder


@pytest.fixture(scope="session")
def compile_cache():
    """One cache for all workers: programs, and what stage 0 made."""
    return pathlib.Path(os.environ["RECRAFT_JAX_TEST_PROGRAMS"]) / "cache"


@pytest.fixture(scope="session")
def smoke(backbone, source_table, compile_cache):
    """Arguments of a run of seconds, without a workdir."""

    def arguments(key="dense", backbone=backbone, **fields):
        fields = {
            "source.path": source_table,
            "assets.cache": compile_cache,
        } | fields
        overrides = [f"--config.{name}={value}" for name, value in fields.items()]
        return [
            "main",
            f"--config={ROOT}/configs/smoke.py:{key},backbone={backbone}",
            *overrides,
        ]

    return arguments


@pytest.fixture(scope="session")
def image_backbone(tmp_path_factory):
    """The same with a tiny Swin of one stage: two blocks, the second one shifted."""
    folder = tmp_path_factory.mktemp("images") / "swin"
    folder.mkdir()
    config = {
        "model_type": "swin",
        "image_size": 16,
        "patch_size": 4,
        "embed_dim": 16,
        "depths": [2],
        "num_heads": [2],
        "window_size": 2,
        "mlp_ratio": 2.0,
    }
    (folder / "config.json").write_text(json.dumps(config))
    safetensors.numpy.save_file(swin_tensors(config), str(folder / "model.safetensors"))
    return folder


@pytest.fixture(scope="session")
def source_table(tmp_path_factory):
    """Labelled sentences that a bag of words can tell apart."""
    return write_source_table(tmp_path_factory.mktemp("source"))


def write_source_table(folder):
    rng = np.random.default_rng(0)
    thirds = np.array_split(np.array(WORDS), 3)
    lines = []
    for index in range(150):
        label = index % 3
        words = rng.choice(thirds[label], 4).tolist() + rng.choice(WORDS, 1).tolist()
        lines.append(f"class{label}\t{' '.join(words)}")
    path = folder / "table.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def drawing(seed):
    """Functions that draw an array, a dense layer and a norm at random."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(0, 0.2, shape).astype(np.float32)

    def linear(name, out, into):
        return {f"{name}.weight": draw(out, into), f"{name}.bias": draw(out)}

    def norm(name, size):
        return {f"{name}.weight": 1 + draw(size), f"{name}.bias": draw(size)}

    return draw, linear, norm


def bert_tensors(config, seed=0):
    """Random checkpoint tensors under Hugging Face's names."""
    draw, linear, norm = drawing(seed)
    d, hidden = config["hidden_size"], config["intermediate_size"]
    tensors = {
        "embeddings.word_embeddings.weight": draw(config["vocab_size"], d),
        "embeddings.position_embeddings.weight": draw(
            config["max_position_embeddings"], d
        ),
        "embeddings.token_type_embeddings.weight": draw(config["type_vocab_size"], d),
        **norm("embeddings.LayerNorm", d),
    }
    for index in range(config["num_hidden_layers"]):
        at = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            tensors |= linear(f"{at}.attention.self.{part}", d, d)
        tensors |= linear(f"{at}.attention.output.dense", d, d)
        tensors |= norm(f"{at}.attention.output.LayerNorm", d)
        tensors |= linear(f"{at}.intermediate.dense", hidden, d)
        tensors |= linear(f"{at}.output.dense", d, hidden)
        tensors |= norm(f"{at}.output.LayerNorm", d)
    return tensors


def swin_tensors(config, seed=0):
    """The same of a Swin with one stage."""
    draw, linear, norm = drawing(seed)
    d, patch = config["embed_dim"], config["patch_size"]
    (depth,), (heads,) = config["depths"], config["num_heads"]
    hidden, window = int(config["mlp_ratio"] * d), config["window_size"]
    tensors = {
        "embeddings.patch_embeddings.projection.weight": draw(d, 3, patch, patch),
        "embeddings.patch_embeddings.projection.bias": draw(d),
        **norm("embeddings.norm", d),
        **norm("layernorm", d),
    }
    for index in range(depth):
        at = f"encoder.layers.0.blocks.{index}"
        table = f"{at}.attention.self.relative_position_bias_table"
        tensors[table] = draw((2 * window - 1) ** 2, heads)
        for part in ("query", "key", "value"):
            tensors |= linear(f"{at}.attention.self.{part}", d, d)
        tensors |= linear(f"{at}.attention.output.dense", d, d)
        tensors |= norm(f"{at}.layernorm_before", d) | norm(f"{at}.layernorm_after", d)
        tensors |= linear(f"{at}.intermediate.dense", hidden, d)
        tensors |= linear(f"{at}.output.dense", d, hidden)
    return tensors
