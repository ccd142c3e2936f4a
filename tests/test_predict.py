"""Predictions of finished runs into files: streams, names, ensembles, refusals."""

import csv
import itertools
import shutil
import zipfile

import h5py
import numpy as np
import pytest

from recraft_jax import errors, main, outputs, predict, predictor
from recraft_jax.data import arrays_file, rows


def write_table(path, num, names=("a", "b", "c"), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(num, len(names)))
    kinds = np.array(["left", "right"])[(x[:, 0] > 0).astype(int)]
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow([*names, "kind"])
        table.writerows([*row, kind] for row, kind in zip(x, kinds, strict=True))
    return x


@pytest.fixture(scope="module")
def runs(backbone, source_table, compile_cache, tmp_path_factory):
    """Two seeds of one task from a table, and its file."""
    folder = tmp_path_factory.mktemp("predict")
    path = folder / "table.csv"
    write_table(path, 60)
    for seed in (0, 1):
        fields = {
            "assets.cache": compile_cache,
            "stage2.num_epochs": 2,
            "fld.num_clusters": 2,
        }
        argv = [
            "main",
            f"--config=configs/custom.py:path={path},method=scratch,"
            f"backbone={backbone},seed={seed}",
            *(f"--config.{name}={value}" for name, value in fields.items()),
            f"--workdir={folder / str(seed)}",
        ]
        assert main.main(argv) == 0
    return folder


def run(runs, *argv, seeds=(0,)):
    workdirs = [f"--workdir={runs / str(seed)}" for seed in seeds]
    return predict.main([*workdirs, *map(str, argv)])


def read(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


# ------------------------------------------------------------------------------ content
def test_predictions_have_names_and_probabilities(runs, tmp_path):
    x = write_table(tmp_path / "new.csv", 11, seed=5)
    out = tmp_path / "out.npz"
    assert run(runs, f"--input={tmp_path / 'new.csv'}", f"--output={out}") == 0
    found = read(out)
    assert set(found) == {"prediction", "probabilities"}
    one = predictor.load(runs / "0")
    want = predictor.run(one, x[..., None].astype(np.float32))["probabilities"]
    np.testing.assert_allclose(found["probabilities"], want, rtol=1e-5)
    names = np.array(["left", "right"])[want.argmax(1)]
    np.testing.assert_array_equal(found["prediction"], names)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.csv", "out.npz"]


def test_columns_are_found_by_name(runs, tmp_path):
    x = write_table(tmp_path / "abc.csv", 9)
    text = (tmp_path / "abc.csv").read_text().splitlines()
    turned = [",".join([*row.split(",")[2::-1], "extra"]) for row in text]
    turned[0] = "c,b,a,note"
    (tmp_path / "cba.csv").write_text("\n".join(turned) + "\n")
    for name in ("abc", "cba"):
        given = (f"--input={tmp_path / name}.csv", f"--output={tmp_path / name}.npz")
        assert run(runs, *given) == 0
    found = [read(tmp_path / f"{name}.npz")["probabilities"] for name in ("abc", "cba")]
    np.testing.assert_array_equal(*found)
    assert len(x) == 9


def test_array_of_the_same_columns_will_do(runs, tmp_path):
    x = write_table(tmp_path / "a.csv", 9)
    np.save(tmp_path / "x.npy", x)
    for name in ("a.csv", "x.npy"):
        given = (f"--input={tmp_path / name}", f"--output={tmp_path / name}.h5")
        assert run(runs, *given) == 0
    both = []
    for name in ("a.csv", "x.npy"):
        with h5py.File(tmp_path / f"{name}.h5") as file:
            both.append(file["probabilities"][:])
            assert set(file["prediction"].asstr()[:]) <= {"left", "right"}
            assert list(file.attrs["labels"]) == ["left", "right"]
    np.testing.assert_allclose(*both, rtol=1e-6)


def test_several_runs_are_averaged_and_their_spread_is_told(runs, tmp_path):
    write_table(tmp_path / "a.csv", 9)
    given = f"--input={tmp_path / 'a.csv'}"
    each = []
    for seed in (0, 1):
        out = tmp_path / f"{seed}.npz"
        assert run(runs, given, f"--output={out}", seeds=(seed,)) == 0
        each.append(read(out)["probabilities"])
    out = tmp_path / "both.npz"
    assert run(runs, given, f"--output={out}", seeds=(0, 1)) == 0
    found = read(out)
    assert set(found) == {"prediction", "probabilities", "spread", "information"}
    np.testing.assert_allclose(found["probabilities"], np.mean(each, 0), rtol=1e-5)
    np.testing.assert_allclose(found["spread"], np.std(each, 0, ddof=1), rtol=1e-4)
    assert (found["information"] > 0).all()


def test_table_has_a_column_for_each_class(runs, tmp_path):
    write_table(tmp_path / "a.csv", 9)
    out = tmp_path / "out.csv"
    given = (f"--input={tmp_path / 'a.csv'}", f"--output={out}")
    assert run(runs, *given, seeds=(0, 1)) == 0
    lines = list(csv.DictReader(out.open()))
    assert list(lines[0]) == [
        *("prediction", "probabilities:left", "probabilities:right"),
        *("spread:left", "spread:right", "information"),
    ]
    assert len(lines) == 9
    for line in lines:
        left, right = (float(line[f"probabilities:{k}"]) for k in ("left", "right"))
        assert left + right == pytest.approx(1, abs=1e-6)
        assert line["prediction"] == ("left" if left > right else "right")


# ---------------------------------------------------------------------------- streaming
def test_blocks_are_read_one_after_the_other(runs, tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(50, 3))
    np.save(tmp_path / "x.npy", x)
    given = f"--input={tmp_path / 'x.npy'}"
    assert run(runs, given, f"--output={tmp_path / 'whole.npz'}") == 0
    monkeypatch.setattr(rows, "BLOCK_VALUES", 3 * 7)
    sizes = []
    make_step = predictor.make_step

    def counted(*args):
        step = make_step(*args)
        return lambda x: sizes.append(len(x)) or step(x)

    monkeypatch.setattr(predictor, "make_step", counted)
    assert run(runs, given, f"--output={tmp_path / 'parts.npz'}") == 0
    assert sizes == [7] * 7 + [1]
    whole, parts = (read(tmp_path / f"{name}.npz") for name in ("whole", "parts"))
    for name in whole:
        np.testing.assert_array_equal(whole[name], parts[name])


def test_ten_million_rows_are_never_in_memory_at_once(runs, tmp_path):
    """Of the first blocks only: all would take minutes."""
    path = tmp_path / "x.npy"
    num = 10_000_000
    np.lib.format.open_memmap(path, "w+", np.float32, (num, 1)).flush()  # sparse
    one = predictor.load(runs / "0")
    signature = one.signature._replace(x_shape=(1, 1))
    with arrays_file.open_arrays(path) as arrays:
        x = predict.inputs(arrays, one)
        assert x.shape == (num, 1) and isinstance(x, rows.Rows)
        parts = predict.blocks(x, one._replace(signature=signature))
        first = list(itertools.islice(parts, 2))
    assert [part.shape for part in first] == [(rows.BLOCK_VALUES, 1, 1)] * 2
    assert predict.num_blocks(x, one) == -(-num // rows.BLOCK_VALUES)


def test_blocks_are_smaller_where_much_is_predicted(runs, monkeypatch):
    monkeypatch.setattr(predict, "OUTPUT_VALUES", 70)
    one = predictor.load(runs / "0")
    many = one._replace(signature=one.signature._replace(num_outputs=10))
    x = np.zeros((20, 3))
    sizes = [len(block) for block in predict.blocks(x, many)]
    assert sizes == [7, 7, 6] and predict.num_blocks(x, many) == 3


# ----------------------------------------------------------------------------- refusals
def refused(capsys, code):
    err = capsys.readouterr().err
    assert code == 2 and err.count("\n") == 1
    return err


def test_bad_inputs_are_one_line_and_leave_no_file(runs, tmp_path, capsys):
    out = tmp_path / "out.npz"
    write_table(tmp_path / "two.csv", 5, names=("a", "b"))
    code = run(runs, f"--input={tmp_path / 'two.csv'}", f"--output={out}")
    assert "column 'c', which the run was trained on" in refused(capsys, code)
    x = np.zeros((5, 3))
    x[3, 1] = np.inf
    np.save(tmp_path / "x.npy", x)
    code = run(runs, f"--input={tmp_path / 'x.npy'}", f"--output={out}")
    assert "sample 3 has values that are not finite" in refused(capsys, code)
    np.save(tmp_path / "x.npy", np.zeros((5, 4)))
    code = run(runs, f"--input={tmp_path / 'x.npy'}", f"--output={out}")
    assert "inputs of shape (4, 1); allowed: [n, 3, 1]" in refused(capsys, code)
    np.save(tmp_path / "x.npy", np.array(["a", "b"]))
    code = run(runs, f"--input={tmp_path / 'x.npy'}", f"--output={out}")
    assert "allowed: real numbers" in refused(capsys, code)
    np.savez(tmp_path / "z.npz", p=np.zeros((5, 3)), q=np.zeros(5))
    code = run(runs, f"--input={tmp_path / 'z.npz'}", f"--output={out}")
    assert "holds p, q; allowed: inputs under the name" in refused(capsys, code)
    assert {p.suffix for p in tmp_path.iterdir()} == {".csv", ".npy", ".npz"}
    assert not out.exists()


def test_bad_outputs_and_folders_are_refused_first(runs, tmp_path, capsys):
    given = f"--input={tmp_path / 'none.csv'}"
    code = run(runs, given, f"--output={tmp_path / 'a.txt'}")
    assert "allowed: a file that ends with .npz, .h5, .csv" in refused(capsys, code)
    code = run(runs, given, f"--output={tmp_path / 'no' / 'a.csv'}")
    assert "allowed: a file in a folder that exists" in refused(capsys, code)
    code = run(runs, given, f"--output={tmp_path / 'a.csv'}", seeds=("none",))
    assert "holds no predictor" in refused(capsys, code)
    code = run(runs, given, f"--output={tmp_path / 'a.csv'}", "--batch_size=0")
    assert "--batch_size=0; allowed: 1, 2, ..." in refused(capsys, code)


def test_runs_of_two_tasks_are_refused(runs, tmp_path):
    found = [predictor.load(runs / str(seed)) for seed in (0, 1)]
    predict.check_alike(found, [runs / "0", runs / "1"])
    other = found[1]._replace(signature=found[1].signature._replace(labels=("a", "b")))
    with pytest.raises(errors.InputError, match=r"labels is \('a', 'b'\)"):
        predict.check_alike([found[0], other], [runs / "0", runs / "1"])


# -------------------------------------------------------------------------------- files
@pytest.mark.parametrize("suffix", outputs.SUFFIXES)
def test_unfinished_file_is_not_there_and_the_old_one_stays(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    path.write_bytes(b"old")
    with pytest.raises(RuntimeError), outputs.open_file(path, 4) as file:
        file.append({"prediction": np.zeros(2, np.float32)})
        raise RuntimeError
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_fields_are_written_as_they_are(tmp_path):
    blocks = np.random.default_rng(0).normal(size=(5, 3, 2, 1)).astype(np.float32)
    for suffix in (".npz", ".h5"):
        with outputs.open_file(tmp_path / f"a{suffix}", 5) as file:
            for part in (blocks[:2], blocks[2:]):
                file.append({"prediction": part, "values": part, "spread": 2 * part})
    found = read(tmp_path / "a.npz")
    with h5py.File(tmp_path / "a.h5") as file:
        for name, value in found.items():
            np.testing.assert_array_equal(file[name][:], value)
    np.testing.assert_array_equal(found["spread"], 2 * blocks)
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        assert {i.compress_type for i in archive.infolist()} == {zipfile.ZIP_STORED}


def test_table_too_wide_is_refused(tmp_path):
    wide = np.zeros((2, 50, 50), np.float32)
    with pytest.raises(errors.InputError, match="2500 columns; allowed: .npz or .h5"):
        with outputs.open_file(tmp_path / "a.csv", 2) as file:
            file.append({"prediction": wide})
    assert not list(tmp_path.iterdir())


def test_folder_of_a_run_elsewhere_is_enough(runs, tmp_path):
    for name in ("config.json", predictor.CARD, predictor.WEIGHTS):
        shutil.copy(runs / "0" / name, tmp_path)
    x = np.random.default_rng(0).normal(size=(4, 3, 1)).astype(np.float32)
    found = [predictor.run(predictor.load(at), x) for at in (runs / "0", tmp_path)]
    np.testing.assert_array_equal(found[0]["logits"], found[1]["logits"])
