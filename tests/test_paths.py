"""Workdirs in a bucket and data at an address, with a folder in place of the bucket."""

import contextlib
import json
import pathlib
import sys

import fsspec
import numpy as np
import pytest
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem

from recraft_jax import checkpoints, errors, main, paths, writer


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
    """What lies in gs://bucket, as a folder."""
    root = tmp_path_factory.mktemp("buckets")
    (root / "bucket").mkdir()

    class Folder(DirFileSystem):
        protocol = "gcs"
        cachable = False

        def __init__(self, **_):
            super().__init__(path=str(root), fs=LocalFileSystem(auto_mkdir=True))

        @classmethod
        def _strip_protocol(cls, path):
            return path.partition("://")[2] or path

    for name in ("gs", "gcs"):
        fsspec.register_implementation(name, Folder, clobber=True)
    yield root / "bucket"
    for name in ("gs", "gcs"):
        del sys.modules["fsspec.registry"]._registry[name]


def test_local_paths_are_those_of_pathlib():
    found = paths.make("runs/a", "--workdir")
    assert found == pathlib.Path("runs/a") and paths.is_local(found)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            "hdfs://a/b",
            "--workdir=hdfs://a/b; allowed: a folder, gs://BUCKET/",
        ),
        ("s3://a/b", "needs the package s3fs, which is not installed; allowed: pip"),
    ],
)
def test_other_schemes_and_missing_packages_are_named(given, message, monkeypatch):
    monkeypatch.setattr(paths.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(errors.InputError, match=message):
        paths.make(given, "--workdir")


def test_files_in_a_bucket_are_written_whole_and_grow(bucket):
    folder = paths.make("gs://bucket/small", "--workdir")
    assert not paths.is_local(folder)
    folder.mkdir(parents=True, exist_ok=True)
    writer.write_json(folder / "config.json", {"a": 1})
    writer.write_npz(folder / "x.npz", x=np.arange(3))
    assert json.loads((bucket / "small" / "config.json").read_text()) == {"a": 1}
    with np.load(bucket / "small" / "x.npz") as file:
        np.testing.assert_array_equal(file["x"], np.arange(3))
    with writer.Writer(folder, 4) as log:
        for step in (1, 2, 3):
            log.scalars(step, "fit", {"loss": float(step)})
        log.rewind(2)
        log.scalars(3, "fit", {"loss": 0.5})
    lines = (bucket / "small" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [1.0, 2.0, 0.5]


def test_a_run_lives_in_a_bucket(bucket, smoke, tmp_path, monkeypatch, capsys):
    """All of it but for the arrays of checkpoints, which Orbax writes by itself."""
    given = []

    @contextlib.contextmanager
    def open_here(directory, keep, real=checkpoints.open_dir):
        given.append(str(directory))
        with real(tmp_path / "checkpoints", keep) as opened:
            yield opened

    monkeypatch.setattr(checkpoints, "open_dir", open_here)
    arguments = [*smoke("dense,method=nft"), "--workdir=gs://bucket/run"]
    assert main.main(arguments) == 0
    assert given == ["gs://bucket/run/checkpoints"]
    names = {path.name for path in (bucket / "run").iterdir()}
    assert names == {
        *("config.json", "metrics.jsonl", "source.npz"),
        *("fields.npz", "samples.npz", "results.json"),
        *("predictor.json", "predictor.safetensors"),
    }
    capsys.readouterr()
    assert main.main(arguments) == 0  # is finished
    assert "gs://bucket/run/results.json" in capsys.readouterr().out
    assert main.main([*arguments, "--config.fa.omega=3"]) == 2
    assert "holds a run of another config" in capsys.readouterr().err


def test_data_are_fetched_once_and_again_when_they_change(tmp_path):
    memory = fsspec.filesystem("memory")
    memory.pipe("/data/one.hdf5", b"first")
    for url in ("memory://data", "memory://data/one.hdf5"):
        copy = paths.fetch(url, "one.hdf5", tmp_path, "data.path")
        assert copy.name == "one.hdf5" and copy.read_bytes() == b"first"
    when = copy.stat().st_mtime_ns
    paths.fetch("memory://data/one.hdf5", "one.hdf5", tmp_path, "data.path")
    assert copy.stat().st_mtime_ns == when
    memory.pipe("/data/one.hdf5", b"second!")
    again = paths.fetch("memory://data", "one.hdf5", tmp_path, "data.path")
    assert again.read_bytes() == b"second!"


@pytest.mark.parametrize("url", ["memory://nothing/here", "nosuch://a/b"])
def test_addresses_that_cannot_be_read_get_one_line(url, tmp_path):
    with pytest.raises(errors.InputError, match=rf"data.path={url} cannot be read: "):
        paths.fetch(url, "one.hdf5", tmp_path, "data.path")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
