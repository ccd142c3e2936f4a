"""Arrays of a scientist's own files: each format, lazily, and what is refused."""

import gzip
import hashlib
import json
import pickle
import subprocess
import sys
import tracemalloc

import cloudpickle
import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from sklearn import datasets

from recraft_jax import errors
from recraft_jax.data import arrays_file, rows

X = np.arange(60.0).reshape(20, 3)
Y = np.arange(20) % 3
WORDS = np.array(["cat", "dog", "mouse", "ox"] * 5)


def opened(path, name):
    with arrays_file.open_arrays(path) as arrays:
        return arrays[name]


def message(path, name=None):
    with pytest.raises(errors.InputError) as info:
        arrays = arrays_file.open_arrays(path)
        np.asarray(arrays[name])
    assert "\n" not in str(info.value)
    return str(info.value)


def check(found, want):
    """Whole, by rows in any order, and twice the same row."""
    assert found.shape == want.shape
    np.testing.assert_array_equal(np.asarray(found[:]), want)
    at = np.array([7, 0, 19, 7, 3])
    np.testing.assert_array_equal(found[at], want[at])
    np.testing.assert_array_equal(found[4:9], want[4:9])
    np.testing.assert_array_equal(found[-1], want[-1])


def write_zarr2(folder, array, chunk):
    """A Zarr array of version 2, from its specification: no codec, raw chunks."""
    folder.mkdir(parents=True)
    meta = {
        **{"zarr_format": 2, "shape": array.shape, "chunks": [chunk, *array.shape[1:]]},
        **{"dtype": array.dtype.str, "compressor": None, "fill_value": 0},
        **{"order": "C", "filters": None},
    }
    (folder / ".zarray").write_text(json.dumps(meta))
    for index in range(-(-len(array) // chunk)):
        part = np.zeros((chunk, *array.shape[1:]), array.dtype)
        rest = array[index * chunk : (index + 1) * chunk]
        part[: len(rest)] = rest
        name = ".".join([str(index)] + ["0"] * (array.ndim - 1))
        (folder / name).write_bytes(part.tobytes())


def write_zarr3(folder, array, chunk):
    """The same of version 3."""
    folder.mkdir(parents=True)
    meta = {
        **{"zarr_format": 3, "node_type": "array", "shape": array.shape},
        **{"data_type": array.dtype.name, "fill_value": 0, "attributes": {}},
        "chunk_grid": {
            "name": "regular",
            "configuration": {"chunk_shape": [chunk, *array.shape[1:]]},
        },
        "chunk_key_encoding": {"name": "default"},
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
    }
    (folder / "zarr.json").write_text(json.dumps(meta))
    for index in range(-(-len(array) // chunk)):
        part = np.zeros((chunk, *array.shape[1:]), array.dtype)
        rest = array[index * chunk : (index + 1) * chunk]
        part[: len(rest)] = rest
        path = folder.joinpath("c", str(index), *["0"] * (array.ndim - 1))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(part.tobytes())


def npz(folder):
    np.savez(folder / "a.npz", x=X, y=Y, names=WORDS, rate=16000)
    return folder / "a.npz"


def compressed(folder):
    np.savez_compressed(folder / "a.npz", x=X, y=Y, names=WORDS, rate=16000)
    return folder / "a.npz"


def npy_folder(folder):
    for name, array in {"x": X, "y": Y, "names": WORDS, "rate": np.array(1)}.items():
        np.save(folder / f"{name}.npy", array)
    return folder


def hdf5(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        file.create_dataset("x", data=X, chunks=(6, 2), compression="gzip")
        file["y"] = Y
        file.create_dataset("names", data=WORDS.astype(object))
        file["rate"] = 16000
        file["none"] = h5py.Empty("f")
    return folder / "a.h5"


def parquet_file(folder):
    table = pa.table({"x": list(X), "y": Y, "names": WORDS})
    parquet.write_table(table, folder / "a.parquet", row_group_size=6)
    return folder / "a.parquet"


FORMATS = (npz, compressed, npy_folder, hdf5, parquet_file)


@pytest.mark.parametrize("write", FORMATS)
def test_arrays_by_name(tmp_path, write):
    path = write(tmp_path)
    with arrays_file.open_arrays(path) as arrays:
        assert set(arrays) == {"x", "y", "names"}  # neither scalars nor nothing
        assert arrays.path == str(path)
        for name, want in {"x": X, "y": Y, "names": WORDS}.items():
            check(arrays[name], want)
        assert isinstance(arrays["x"], rows.Rows) == (write is not compressed)


@pytest.mark.parametrize("write", FORMATS)
def test_rows_can_be_read_after_close_and_in_another_process(tmp_path, write):
    found = opened(write(tmp_path), "x")
    found[0]
    sent = cloudpickle.dumps(found)
    assert write is compressed or len(sent) < 4000  # the path rather than the values
    check(pickle.loads(sent), X)


@pytest.mark.parametrize("version", [write_zarr2, write_zarr3])
def test_zarr_of_both_versions(tmp_path, version):
    version(tmp_path / "x", X, 6)
    version(tmp_path / "more" / "y", Y, 20)
    meta = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    name = "zarr.json" if version is write_zarr3 else ".zgroup"
    (tmp_path / name).write_text(json.dumps(meta))
    with arrays_file.open_arrays(tmp_path) as arrays:
        assert list(arrays) == ["more/y", "x"]
        check(arrays["x"], X)
        check(arrays["more/y"], Y)
        assert isinstance(arrays["x"], rows.Rows)


@pytest.mark.parametrize("version", [write_zarr2, write_zarr3])
def test_zarr_of_one_array_is_named_by_its_folder(tmp_path, version):
    version(tmp_path / "field.zarr", X, 20)
    check(opened(tmp_path / "field.zarr", "field"), X)


def test_zarr_text_is_refused(tmp_path):
    write_zarr2(tmp_path / "s" / "y", WORDS, 20)
    (tmp_path / "s" / ".zgroup").write_text('{"zarr_format": 2}')
    assert message(tmp_path / "s", "y").startswith(f"{tmp_path / 's'}: y cannot be re")


def test_hdf5_in_groups(tmp_path):
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["deep/er/x"] = X
    with arrays_file.open_arrays(tmp_path / "a.hdf5") as arrays:
        assert list(arrays) == ["deep/er/x"]
        check(arrays["deep/er/x"], X)


def test_fortran_order_and_byte_order(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(X.astype(">f4")))
    check(opened(tmp_path / "a.npz", "x"), X)


def test_npy_finds_what_is_beside_it(tmp_path):
    for name, array in {"x": X, "labels": Y, "group": Y, "other": Y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    with arrays_file.open_arrays(tmp_path / "x.npy") as arrays:
        assert set(arrays) == {"x", "labels", "group"}
    with arrays_file.open_arrays(tmp_path / "labels.npy") as arrays:
        assert set(arrays) == {"x", "labels", "group"}


TABLE = "a,b,name\n1,0.5,cat\n2,,dog\n3,2.5,cat\n"


@pytest.mark.parametrize("end", [".csv", ".tsv", ".csv.gz"])
def test_columns_of_text_tables(tmp_path, end):
    text = TABLE.replace(",", "\t") if end == ".tsv" else TABLE
    path = tmp_path / f"t{end}"
    path.write_bytes(gzip.compress(text.encode()) if "gz" in end else text.encode())
    with arrays_file.open_arrays(path) as arrays:
        assert arrays.is_table and list(arrays) == ["a", "b", "name"]
        assert arrays["a"].dtype == np.int64
        np.testing.assert_array_equal(arrays["b"], [0.5, np.nan, 2.5])
        assert arrays["name"].tolist() == ["cat", "dog", "cat"]
        np.testing.assert_array_equal(
            arrays.columns(["b", "a"]), [[0.5, 1], [np.nan, 2], [2.5, 3]]
        )


def test_columns_of_parquet_side_by_side(tmp_path):
    columns = {"a": Y, "b": X[:, 1].astype(np.float32), "c": Y > 1}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=7)
    with arrays_file.open_arrays(tmp_path / "t.parquet") as arrays:
        found = arrays.columns(["b", "c", "a"])
    assert isinstance(found, rows.Rows)
    check(found, np.stack([X[:, 1], Y > 1, Y], axis=1))


def test_parquet_types(tmp_path):
    columns = {
        "gaps": pa.array([1, None, 3, 4]),
        "flags": pa.array([True, None, False, True]),
        "money": pa.array([1, 2, 3, 4], pa.decimal128(9, 2)),
        "nothing": pa.nulls(4),
        "kinds": pa.array(["u", "v", "u", "v"]).dictionary_encode(),
        "when": pa.array([0, 1, 2, 3], pa.timestamp("s")),
        "plane": pa.array([[[1, 2], [3, 4]]] * 4),
        "fixed": pa.array([[1.0, 2.0]] * 4, pa.list_(pa.float32(), 2)),
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet", row_group_size=3)
    with arrays_file.open_arrays(tmp_path / "t.parquet") as arrays:
        found = {name: np.asarray(arrays[name]) for name in arrays}
    nan = np.nan
    np.testing.assert_array_equal(found["gaps"], [1, nan, 3, 4])
    np.testing.assert_array_equal(found["flags"], [1, nan, 0, 1])
    np.testing.assert_array_equal(found["money"], [1.0, 2, 3, 4])
    np.testing.assert_array_equal(found["nothing"], [nan] * 4)
    assert found["kinds"].tolist() == ["u", "v", "u", "v"]
    assert found["when"].dtype.kind == "M"
    np.testing.assert_array_equal(found["plane"], [[[1, 2], [3, 4]]] * 4)
    np.testing.assert_array_equal(found["fixed"], [[1, 2]] * 4)


def test_parts_of_a_folder_are_joined_by_name(tmp_path):
    (tmp_path / ".hidden.csv").write_text("z\n1\n")
    (tmp_path / "readme.txt").write_text("not data")
    (tmp_path / "b.csv").write_text("v,name\n0.5,ox\n")
    (tmp_path / "a.csv").write_text("v,name\n1,cat\n2,dog\n")
    with arrays_file.open_arrays(tmp_path) as arrays:
        assert arrays.is_table
        assert arrays["name"].tolist() == ["cat", "dog", "ox"]
        np.testing.assert_array_equal(arrays["v"], [1, 2, 0.5])  # not cut to integers
        np.testing.assert_array_equal(arrays.columns(["v"]), [[1], [2], [0.5]])


@pytest.mark.parametrize("kind", ["npz", "parquet", "h5"])
def test_parts_stay_in_their_files(tmp_path, kind):
    for name, part in (("0", slice(0, 8)), ("1", slice(8, 20))):
        path = tmp_path / f"{name}.{kind}"
        # The first part holds whole numbers, as those of a column may happen to be.
        x = X[part].astype(int) if name == "0" else X[part] + 0.5
        if kind == "npz":
            np.savez(path, x=x, y=WORDS[part])
        elif kind == "parquet":
            parquet.write_table(pa.table({"x": list(x), "y": WORDS[part]}), path)
        else:
            with h5py.File(path, "w") as file:
                file["x"], file["y"] = x, WORDS[part].astype(object)
    want = X + np.where(np.arange(20)[:, None] < 8, 0, 0.5)
    with arrays_file.open_arrays(tmp_path) as arrays:
        assert isinstance(arrays["x"], rows.Rows)
        check(arrays["x"], want)
        check(arrays["y"], WORDS)


@pytest.mark.parametrize("name", arrays_file.SKLEARN)
def test_sets_of_scikit_learn(name):
    want = getattr(datasets, f"load_{name}")()
    with arrays_file.open_arrays(f"sklearn:{name}") as arrays:
        x = want.images if name == "digits" else want.data
        np.testing.assert_array_equal(arrays["x"], x)
        np.testing.assert_array_equal(arrays["y"], want.target)
    assert len(arrays_file.sha256(f"sklearn:{name}")) == 64


MANY = 10_000_000


def sparse_npy(folder):
    """Ten million rows of zeros but for two, which take no place on the disk."""
    header = np.lib.format.header_data_from_array_1_0(np.empty((MANY, 1), np.float32))
    path = folder / "x.npy"
    with path.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header | {"shape": (MANY, 1)})
        start = stream.tell()
        stream.truncate(start + 4 * MANY)
        for row in (123_456, MANY - 1):
            stream.seek(start + 4 * row)
            stream.write(np.float32(row).tobytes())
    return path


def sparse_hdf5(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        stored = file.create_dataset("x", (MANY, 1), np.float32, chunks=(10_000, 1))
        for row in (123_456, MANY - 1):
            stored[row] = row
    return folder / "a.h5"


@pytest.mark.parametrize("write", [sparse_npy, sparse_hdf5])
def test_ten_million_rows_take_the_memory_of_those_read(tmp_path, write):
    path = write(tmp_path)
    at = np.linspace(0, MANY - 1, 100).astype(int)
    at[:2] = 123_456, MANY - 1
    opened(path, "x")[0]  # what libraries keep
    tracemalloc.start()
    found = opened(path, "x")
    values = found[at]
    first = found[:100]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (MANY, 1) and first.shape == (100, 1)
    assert values[:2, 0].tolist() == [np.float32(123_456), np.float32(MANY - 1)]
    assert not values[2:-1].any()
    assert peak < 1_000_000  # of 40 MB


def test_opening_npy_imports_no_other_library(tmp_path):
    np.save(tmp_path / "x.npy", X)
    code = (
        "import sys; from recraft_jax.data import arrays_file as a; "
        f"a.open_arrays({str(tmp_path / 'x.npy')!r})['x'][0]; "
        "print({'pyarrow', 'h5py', 'tensorstore', 'sklearn', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_sha256_of_a_file_is_that_of_its_content(tmp_path):
    path = npz(tmp_path)
    assert arrays_file.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_sha256_of_a_folder_knows_names_and_contents(tmp_path):
    npy_folder(tmp_path)
    first = arrays_file.sha256(tmp_path)
    assert arrays_file.sha256(tmp_path) == first
    np.save(tmp_path / "y.npy", Y[::-1])
    second = arrays_file.sha256(tmp_path)
    (tmp_path / "y.npy").rename(tmp_path / "z.npy")
    assert len({first, second, arrays_file.sha256(tmp_path)}) == 3


def test_sha256_of_npy_knows_what_is_beside_it(tmp_path):
    np.save(tmp_path / "x.npy", X)
    alone = arrays_file.sha256(tmp_path / "x.npy")
    np.save(tmp_path / "unread.npy", Y)
    assert arrays_file.sha256(tmp_path / "x.npy") == alone
    np.save(tmp_path / "y.npy", Y)
    assert arrays_file.sha256(tmp_path / "x.npy") != alone


# What is refused.

RAGGED = np.array([[1.0], [1.0, 2.0]], dtype=object)


def ragged_npz(folder):
    np.savez(folder / "a.npz", x=RAGGED, y=Y)
    return folder / "a.npz", f"{folder / 'a.npz'}: x"


def ragged_npy(folder):
    np.save(folder / "x.npy", RAGGED)
    return folder / "x.npy", f"{folder / 'x.npy'}: x"


def ragged_hdf5(folder):
    with h5py.File(folder / "a.h5", "w") as file:
        stored = file.create_dataset("x", 2, h5py.vlen_dtype(np.float32))
        stored[0], stored[1] = [1.0], [1.0, 2.0]
    return folder / "a.h5", f"{folder / 'a.h5'}: x"


@pytest.mark.parametrize("write", [ragged_npz, ragged_npy, ragged_hdf5])
def test_objects_are_refused_where_they_are_asked_for(tmp_path, write):
    path, start = write(tmp_path)
    assert message(path, "x") == (
        f"{start} holds objects, as ragged lists do; samples need padding to one "
        "shape; allowed: arrays of numbers or text"
    )
    if write is ragged_npz:
        check(opened(path, "y"), Y)


def test_no_pickle_is_run(tmp_path):
    class Bomb:
        def __reduce__(self):
            return open, (str(tmp_path / "bang"), "w")

    np.savez(tmp_path / "a.npz", x=np.array([Bomb()], dtype=object))
    (tmp_path / "x.npy").write_bytes(pickle.dumps(Bomb()))
    message(tmp_path / "a.npz", "x")
    message(tmp_path / "x.npy", "x")
    assert not (tmp_path / "bang").exists()


def test_ragged_lists_of_parquet_name_the_row(tmp_path):
    path = tmp_path / "t.parquet"
    values = [[1.0, 2.0]] * 5 + [[1.0]]
    parquet.write_table(pa.table({"x": values}), path, row_group_size=4)
    assert message(path, "x") == (
        f"{path}: column 'x' holds lists of unequal lengths, first in row 5 (from 0) "
        "with 1 instead of 2; allowed: lists padded to one length"
    )


def test_ragged_lists_between_row_groups_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    values = [[1.0, 2.0]] * 4 + [[1.0]] * 2
    parquet.write_table(pa.table({"x": values}), path, row_group_size=4)
    assert "row 4 (from 0) with 1 instead of 2" in message(path, "x")


def test_ragged_lists_of_lists_name_the_row(tmp_path):
    path = tmp_path / "t.parquet"
    values = [[[1.0], [2.0]]] * 3 + [[[1.0], [2.0, 3.0]]]
    parquet.write_table(pa.table({"x": values}), path)
    assert "row 3 (from 0) with 2 instead of 1" in message(path, "x")


def test_text_that_is_missing_names_the_row(tmp_path):
    path = tmp_path / "t.parquet"
    values = ["a", "b", "c", "d", None, "e"]
    parquet.write_table(pa.table({"y": values}), path, row_group_size=3)
    assert message(path, "y") == (
        f"{path}: column 'y' is empty in row 4 (from 0); allowed: a value in every row"
    )


def test_other_things_in_parquet_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": [{"a": 1}]}), path)
    assert message(path, "x") == (
        f"{path}: column 'x' is of type struct<a: int64>; allowed: numbers, text, or "
        "lists of numbers"
    )


SUFFIXES = ".npz, .npy, .h5, .hdf5, .he5, .csv, .csv.gz, .tsv, .tsv.gz, .parquet"
TEXTS = {
    "a.csv": {
        "1,2\n3,4\n": "the first line holds numbers, 1, 2; allowed: the names of the "
        "columns in the first line",
        "a,b,a\n1,2,3\n": "column 'a' is there twice; allowed: a name once",
        "a;b\n1;2\n": "one column 'a;b', as if separated by ';'; allowed: commas in "
        ".csv, tabs in .tsv",
        "a\tb\n1\t2\n": r"one column 'a\tb', as if separated by '\t'; allowed: commas "
        "in .csv, tabs in .tsv",
    },
    "a.tsv": {
        "a,b\n1,2\n": "one column 'a,b', as if separated by ','; allowed: commas in "
        ".csv, tabs in .tsv",
    },
    "a.pkl": {
        "?": f"unknown kind of file '.pkl'; allowed: {SUFFIXES}, a folder of one of "
        "them, or a Zarr folder",
    },
}


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name in TEXTS for text in TEXTS[name]]
)
def test_files_of_other_kinds_get_one_line(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    assert message(path) == f"{path}: {TEXTS[name][text]}"


@pytest.mark.parametrize(
    "name", [f"a{end}" for end in (".npz", ".npy", ".h5", ".csv", ".parquet")]
)
@pytest.mark.parametrize("raw", [b"", b"\x93NUMPY", b"PK\x03\x04 and no more\xff\n"])
def test_damaged_files_get_one_line(tmp_path, name, raw):
    path = tmp_path / name
    path.write_bytes(raw)
    if name == "a.csv" and raw:
        raw = b"a,b\n1,2,3\n"
        path.write_bytes(raw)
    said = message(path, "x")
    assert said.startswith(f"{path}: cannot be read (")
    assert said.endswith("; allowed: whole files of arrays of numbers or text")


@pytest.mark.parametrize("write", [npz, npy_folder])
def test_cut_off_files_are_refused_at_once(tmp_path, write):
    path = write(tmp_path)
    file = path / "x.npy" if write is npy_folder else path
    if write is npy_folder:
        file.write_bytes(file.read_bytes()[:-8])
    else:
        file.write_bytes(file.read_bytes()[:500])
    assert "cannot be read (" in message(path, "x")


def test_missing_file():
    assert message("/nowhere/a.npz") == (
        "/nowhere/a.npz: there is no such file; allowed: a file or folder that exists, "
        "or sklearn: and one of digits, diabetes, iris, wine, breast_cancer"
    )


def test_unknown_set():
    assert message("sklearn:boston") == (
        "sklearn:boston: there is no such set; allowed: sklearn: and one of digits, "
        "diabetes, iris, wine, breast_cancer"
    )


def test_file_without_arrays(tmp_path):
    np.savez(tmp_path / "a.npz", rate=3)
    path = tmp_path / "a.npz"
    assert message(path) == f"{path}: holds no arrays; allowed: one or more"


def test_folders_that_hold_nothing_or_too_much(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    assert message(tmp_path) == (
        f"{tmp_path}: the folder holds none of these; allowed: files of one of "
        f"{SUFFIXES}, or a Zarr store"
    )
    npz(tmp_path)
    hdf5(tmp_path)
    assert f"{tmp_path}: the folder holds .h5 and .npz; allowed" in message(tmp_path)


def test_parts_that_do_not_fit_together(tmp_path):
    (tmp_path / "a.csv").write_text("u,v\n1,cat\n")
    (tmp_path / "b.csv").write_text("u,w\n1,cat\n")
    assert message(tmp_path) == (
        f"{tmp_path / 'b.csv'}: holds u, w; allowed: the names of "
        f"{tmp_path / 'a.csv'}, u, v"
    )
    (tmp_path / "b.csv").write_text("u,v\n1,5\n")
    assert message(tmp_path, "v") == (
        f"{tmp_path / 'b.csv'}: v: int64 (1,); allowed: as in {tmp_path / 'a.csv'}, "
        "<U3 (1,) for any first size"
    )


@pytest.mark.parametrize("kind", ["npz", "h5", "parquet", "csv"])
def test_no_rows_are_an_array_of_none(tmp_path, kind):
    path = tmp_path / f"a.{kind}"
    if kind == "npz":
        np.savez(path, x=X[:0])
    elif kind == "h5":
        with h5py.File(path, "w") as file:
            file["x"] = X[:0]
    elif kind == "parquet":
        parquet.write_table(pa.table({"x": Y[:0]}), path)
    else:
        path.write_text("x,y\n")
    assert len(opened(path, "x")) == 0
