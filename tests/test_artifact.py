"""A predictor that leaves the package: the same numbers, and no damage unseen."""

import ast
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors

from recraft_jax import artifact, artifact_loader, errors, tree, writer
from recraft_jax.models import cross_modal, fno, pretrained, unet

ABOUT = {
    "task": "toy",
    "units": {"x": "m", "pred": "Pa"},
    "labels": ["low", "high"],
    "scores": {"nrmse": 0.25},
}
BATCH = 3
NUM = 7  # two whole batches and a rest

# Runs artifacts where nothing but jax and what it needs can be imported.
ALONE = """
import runpy, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        top = name.partition(".")[0]
        allowed = "jax jaxlib numpy ml_dtypes opt_einsum scipy".split()
        is_stdlib = top in sys.stdlib_module_names or top.startswith("_sysconfigdata")
        if top in allowed or is_stdlib:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Finder]
for folder in sys.argv[1:]:
    sys.argv = ["load.py", f"{folder}-x.npy", f"{folder}-out.npz", "--batch_size=3"]
    runpy.run_path(f"{folder}/load.py", run_name="__main__")
for name in "recraft_jax", "safetensors", "flatbuffers", "flax":
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{name} was within reach")
"""


def toy(params, x):
    """A dense map with weights of three types, and one that is not used."""
    flat = x.reshape(x.shape[0], -1) * params["scale"]
    pred = jax.nn.gelu(flat @ params["map/kernel"].astype(jnp.float32))
    return {
        "pred": pred + params["map/shift"],
        "label": jnp.argmax(pred, axis=-1),
        "half": pred.astype(jnp.bfloat16),
    }


def toy_params():
    rng = np.random.default_rng(0)
    return {
        "scale": np.float32(0.5),
        "map/kernel": rng.normal(size=(8, 5)).astype(jnp.bfloat16),
        "map/shift": np.arange(5, dtype=np.int32),
        "idle": np.ones(1000, np.float32),
    }


def make_toy(fixture):
    del fixture
    return toy, toy_params(), (4, 2)


def make_bert(fixture):
    body = pretrained.load(fixture("backbone"))
    shapes = {"x_shape": (13, 2), "y_shape": (13, 3)}
    model = cross_modal.make(body, **shapes, num_classes=0, patch=4)
    params = model.init(jax.random.key(0))
    return lambda p, x: {"pred": model.apply(p, x)[0]}, params, (13, 2)


def make_swin(fixture):
    body = pretrained.load(fixture("image_backbone"))
    shapes = {"x_shape": (7, 9, 2), "y_shape": None}
    model = cross_modal.make(body, **shapes, num_classes=4)
    params = model.init(jax.random.key(0))
    return lambda p, x: {"logits": model.apply(p, x)[0]}, params, (7, 9, 2)


def make_fno(fixture):
    del fixture
    shapes = {"x_shape": (9, 10, 2), "y_shape": (9, 10, 1)}
    model = fno.make(**shapes, modes=3, width=4)
    params = model.init(jax.random.key(0))
    return lambda p, x: {"pred": model.apply(p, x)[0]}, params, (9, 10, 2)


def make_unet(fixture):
    del fixture
    model = unet.make(x_shape=(18, 2), y_shape=(18, 1), features=2)
    params, stats = model.init(jax.random.key(0))
    draw = np.random.default_rng(0).uniform
    stats = {k: draw(0.5, 2, v.shape).astype(np.float32) for k, v in stats.items()}

    def fn(p, x):
        stats = tree.under(p, "stats")
        params = tree.under(p, "params")
        return {"pred": model.apply(params, stats, x, False)[0]}

    both = tree.prefixed(params, "params") | tree.prefixed(stats, "stats")
    return fn, both, (18, 2)


MAKERS = {
    "toy": make_toy,
    "bert": make_bert,
    "swin": make_swin,
    "fno": make_fno,
    "unet": make_unet,
}


@pytest.fixture(scope="module")
def written(request, tmp_path_factory):
    """Every predictor with its artifact, and an input beside it."""
    root = tmp_path_factory.mktemp("artifacts")
    found = {}
    for name, make in MAKERS.items():
        fn, params, shape = make(request.getfixturevalue)
        artifact.write(root / name, fn, params, x_shape=shape, about=ABOUT)
        x = np.random.default_rng(1).normal(size=(NUM, *shape)).astype(np.float32)
        np.save(root / f"{name}-x.npy", x)
        found[name] = (root / name, fn, params, x)
    return found


@pytest.fixture(scope="module")
def alone(written, tmp_path_factory):
    """What a process without this package makes of them."""
    folders = [str(folder) for folder, *_ in written.values()]
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *folders],
        cwd=tmp_path_factory.mktemp("elsewhere"),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return {name: dict(np.load(f"{at}-out.npz")) for name, (at, *_) in written.items()}


@pytest.fixture
def folder(written, tmp_path):
    return shutil.copytree(written["toy"][0], tmp_path / "copy")


def by_batches(fn, params, x):
    """What `fn` makes of batches of three, the last one filled up with zeros."""
    fill = np.zeros((-len(x) % BATCH, *x.shape[1:]), np.float32)
    batches = np.concatenate([x, fill]).reshape(-1, BATCH, *x.shape[1:])
    outputs = [jax.jit(fn)(params, batch) for batch in batches]
    return {k: np.concatenate([o[k] for o in outputs])[: len(x)] for k in outputs[0]}


@pytest.mark.parametrize("num", [1, 2, BATCH, NUM])
def test_any_number_of_inputs_gives_the_outputs_of_the_function(written, num):
    folder, fn, params, x = written["toy"]
    outputs = artifact_loader.load(folder, BATCH)(x[:num])
    expected = by_batches(fn, params, x[:num])
    assert outputs.keys() == expected.keys()
    for name, value in outputs.items():
        assert isinstance(value, np.ndarray)
        assert value.dtype == expected[name].dtype
        np.testing.assert_array_equal(value, expected[name])


def test_no_inputs_give_no_outputs(written):
    outputs = artifact_loader.load(written["toy"][0])(np.zeros((0, 4, 2)))
    shapes = {name: value.shape for name, value in outputs.items()}
    assert shapes == {"pred": (0, 5), "label": (0,), "half": (0, 5)}


@pytest.mark.parametrize("name", MAKERS)
def test_process_without_the_package_gives_the_same_outputs(written, alone, name):
    _, fn, params, x = written[name]
    expected = by_batches(fn, params, x)
    assert alone[name].keys() == expected.keys()
    for key, value in alone[name].items():
        np.testing.assert_array_equal(value, expected[key].astype(value.dtype))


@pytest.mark.parametrize("name", MAKERS)
def test_program_names_no_file_of_this_machine(written, name):
    module = (written[name][0] / artifact_loader.MODEL).read_bytes()
    assert b"test_artifact" not in module
    assert b".py" not in module
    assert jax.config.jax_traceback_in_locations_limit != 0


def test_facts_come_with_the_predictor(written):
    folder, _, _, _ = written["toy"]
    manifest = artifact_loader.load(folder).manifest
    assert manifest["about"] == ABOUT
    assert manifest["x"] == {"shape": ["b", 4, 2], "dtype": "float32"}
    assert manifest["outputs"] == {
        "pred": {"shape": ["b", 5], "dtype": "float32"},
        "label": {"shape": ["b"], "dtype": "int32"},
        "half": {"shape": ["b", 5], "dtype": "bfloat16"},
    }
    assert manifest["export"]["platforms"] == ["cpu", "cuda", "tpu"]
    assert manifest["export"]["jax"] == jax.__version__
    readme = (folder / "README.md").read_text()
    for text in ("# toy", "float32 [b, 4, 2]", '"pred": "Pa"', '["low", "high"]'):
        assert text in readme


def test_loader_is_this_module_and_imports_jax_and_numpy_alone(folder):
    source = (folder / "load.py").read_bytes()
    assert source == pathlib.Path(artifact_loader.__file__).read_bytes()
    tops = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            tops |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            tops.add(node.module.partition(".")[0])
    assert tops - sys.stdlib_module_names == {"jax", "numpy"}


def test_safetensors_reads_the_weights_that_are_used(written):
    folder, _, params, _ = written["toy"]
    with safetensors.safe_open(folder / artifact_loader.WEIGHTS, "np") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}
    assert stored.keys() == params.keys() - {"idle"}
    ours = artifact_loader.read_weights(folder / artifact_loader.WEIGHTS)
    for found in (stored, ours):
        for name, value in found.items():
            assert value.dtype == params[name].dtype
            np.testing.assert_array_equal(value, params[name])


def test_weights_of_any_layout_keep_their_values(tmp_path):
    params = {
        "turned": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "big_endian": np.arange(3, dtype=">i4"),
        "single": np.asarray(7, np.uint8),
        "empty": np.zeros((0, 2), np.float32),
        "flags": np.array([True, False]),
        "half": jnp.array([0.1, -3e38], jnp.bfloat16),
        "on device": jnp.arange(4, dtype=jnp.uint32),
    }

    def fn(p, x):
        return {k: jnp.broadcast_to(v, (x.shape[0], *v.shape)) for k, v in p.items()}

    artifact.write(tmp_path / "out", fn, params, x_shape=(), about={})
    outputs = artifact_loader.load(tmp_path / "out", 2)(np.zeros(3))
    assert outputs.keys() == params.keys()
    for name, value in outputs.items():
        leaf = np.asarray(params[name])
        assert value.dtype == leaf.dtype.newbyteorder("=")
        np.testing.assert_array_equal(value, np.stack([leaf] * 3))


def test_predictor_need_not_look_at_its_input(tmp_path):
    def fn(p, x):
        return {"pred": jnp.broadcast_to(p["mean"], (x.shape[0], 2))}

    params = {"mean": np.array([1, 2], np.float32)}
    artifact.write(tmp_path / "out", fn, params, x_shape=(4,), about={})
    outputs = artifact_loader.load(tmp_path / "out", 2)(np.zeros((3, 4)))
    np.testing.assert_array_equal(outputs["pred"], [[1, 2]] * 3)


def refused(folder, name):
    """Whether the folder is refused in one line that names the file."""
    with pytest.raises(ValueError, match=re.escape(str(folder / name))) as caught:
        artifact_loader.verify(folder)
    assert len(str(caught.value).splitlines()) == 1
    return True


FILES = ("README.md", "load.py", "manifest.json", "model.stablehlo")
FILES += ("weights.safetensors",)


def test_artifact_is_whole(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    assert artifact_loader.verify(folder)["about"] == ABOUT


@pytest.mark.parametrize("name", FILES)
def test_one_changed_byte_is_found(folder, name):
    path = folder / name
    data = path.read_bytes()
    count = 150 if name == "manifest.json" else 25
    for at in np.linspace(0, len(data) - 1, count).astype(int):
        for flip in (0x01, 0x80):
            path.write_bytes(data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :])
            assert refused(folder, name)
    for other in (data[:-1], data + b"\n", b""):
        path.write_bytes(other)
        assert refused(folder, name)
    path.write_bytes(data)
    artifact_loader.verify(folder)


@pytest.mark.parametrize(
    "other",
    [
        lambda text: json.dumps(json.loads(text), sort_keys=True),
        lambda text: text.replace("toy", "toys"),
        lambda text: "[]",
        lambda text: "{}",
    ],
)
def test_manifest_of_other_bytes_is_refused(folder, other):
    path = folder / "manifest.json"
    path.write_text(other(path.read_text()))
    assert refused(folder, "manifest.json")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_found(folder, name):
    (folder / name).unlink()
    assert refused(folder, name)


@pytest.mark.parametrize("name", ["more.bin", ".hidden", "jax.py"])
def test_additional_file_is_found(folder, name):
    (folder / name).touch()
    assert refused(folder, name)


def test_what_an_import_leaves_behind_is_no_damage(folder):
    (folder / "__pycache__").mkdir()
    artifact_loader.verify(folder)


def test_missing_folder_is_one_line(tmp_path):
    assert refused(tmp_path / "nowhere", "manifest.json")


def change(folder, **facts):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["export"] |= facts.pop("export", {})
    path.write_bytes(artifact_loader.seal(manifest | facts))


def test_damage_is_found_before_use(folder):
    with (folder / "weights.safetensors").open("ab") as file:
        file.write(b"0")
    with pytest.raises(ValueError, match="weights.safetensors: damaged"):
        artifact_loader.load(folder)


def test_unknown_format_is_refused(folder):
    change(folder, format_version=2)
    with pytest.raises(ValueError, match="format_version 2; allowed: 1"):
        artifact_loader.load(folder)


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"calling_convention_version": 99}, "calling convention 99 is not in"),
        ({"platforms": ["tpu"]}, "platforms"),
        ({"module_kept_var_idx": [0]}, "model.stablehlo does not run with jax"),
    ],
)
def test_jax_that_cannot_run_it_is_one_line(folder, facts, text):
    change(folder, export=facts)
    with pytest.raises(ValueError, match=text) as caught:
        artifact_loader.load(folder)
    assert len(str(caught.value).splitlines()) == 1
    assert f"jax {jax.__version__}, which made it" in str(caught.value)


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((3, 4)),
        np.zeros((3, 2, 4)),
        np.zeros((4, 2)),
        np.float32(1),
        np.zeros((3, 4, 2), complex),
        np.full((3, 4, 2), "a"),
    ],
)
def test_wrong_input_is_refused(written, x):
    predict = artifact_loader.load(written["toy"][0])
    with pytest.raises(ValueError, match=r"allowed: numbers \[n, 4, 2\]"):
        predict(x)


def test_batch_of_none_is_refused(written):
    with pytest.raises(ValueError, match="batch_size = 0; allowed: 1 or more"):
        artifact_loader.load(written["toy"][0], 0)


@pytest.mark.parametrize("content", [b"", b"no array"])
def test_command_ends_in_one_line(tmp_path, monkeypatch, content):
    (tmp_path / "x.npy").write_bytes(content)
    output = tmp_path / "out.npz"
    monkeypatch.setattr("sys.argv", ["load.py", str(tmp_path / "x.npy"), str(output)])
    with pytest.raises(SystemExit, match=r"\Aerror: .*\Z"):
        artifact_loader.main()
    assert not output.exists()


def write_toy(out, fn=toy, params=None, about=ABOUT):
    artifact.write(out, fn, params or toy_params(), x_shape=(4, 2), about=about)


def test_empty_folder_is_filled(tmp_path):
    out = tmp_path / "new" / "out"
    out.mkdir(parents=True)
    write_toy(out)
    artifact_loader.verify(out)
    assert out.stat().st_mode & 0o777 == 0o755
    assert list(out.parent.iterdir()) == [out]


def test_folder_that_holds_something_is_left_alone(tmp_path):
    (tmp_path / "mine").touch()
    for out in (tmp_path, tmp_path / "mine"):
        with pytest.raises(errors.InputError, match="allowed: a new or empty folder"):
            write_toy(out)
    assert list(tmp_path.iterdir()) == [tmp_path / "mine"]


@pytest.mark.parametrize("calls", [1, 3, 5])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch, calls, error):
    real, left = writer.write_atomically, [calls]

    def fail(path, content):
        left[0] -= 1
        if not left[0]:
            raise error("stop")
        real(path, content)

    monkeypatch.setattr(writer, "write_atomically", fail)
    with pytest.raises(error, match="stop"):
        write_toy(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_what_was_written_is_checked(tmp_path, monkeypatch):
    real = writer.write_atomically

    def damage(path, content):
        real(path, content)
        if path.name == artifact_loader.MANIFEST:
            os.truncate(path.parent / artifact_loader.WEIGHTS, 10)

    monkeypatch.setattr(writer, "write_atomically", damage)
    with pytest.raises(ValueError, match="weights.safetensors: damaged"):
        write_toy(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_weights_of_other_types_are_refused(tmp_path):
    params = toy_params() | {"idle": np.zeros(3)}
    with pytest.raises(errors.InputError, match="weights idle are float64; allowed: "):
        write_toy(tmp_path / "out", params=params)


@pytest.mark.parametrize("value", [float("nan"), np.float32(1), object(), {(1, 2): 3}])
def test_facts_that_are_not_json_are_refused(tmp_path, value):
    with pytest.raises(errors.InputError, match="facts about the predictor: .*allowed"):
        write_toy(tmp_path / "out", about={"scores": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda pred: pred,
        lambda pred: {},
        lambda pred: {"pred": {"deeper": pred}},
        lambda pred: {"pred": pred.sum(0)},
        lambda pred: {"pred": pred.sum()},
        lambda pred: {"pred": jnp.concatenate([pred, pred])},
        lambda pred: {"pred": pred.reshape(5, -1).T, "all": pred.reshape(5, -1)},
        lambda pred: {"pred": pred + 1j},
        lambda pred: {0: pred},
    ],
)
def test_other_outputs_are_refused(tmp_path, wrong):
    with pytest.raises(ValueError, match="returns .*allowed: a dict by name of arrays"):
        write_toy(tmp_path / "out", fn=lambda p, x: wrong(toy(p, x)["pred"]))
    assert list(tmp_path.iterdir()) == []


def test_function_of_two_devices_is_refused(tmp_path):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.NamedSharding(mesh, jax.P(None, "data"))

    def fn(params, x):
        return toy(params, jax.lax.with_sharding_constraint(x, split))

    with pytest.raises(ValueError, match="a function of 2 devices; allowed: 1"):
        write_toy(tmp_path / "out", fn=fn)
