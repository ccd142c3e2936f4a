"""The table of official files, and the command that looks for them."""

import hashlib
import re
import subprocess

import nas360_files
import nas360_writers
import pytest

from recraft_jax import errors
from recraft_jax.data.nas360 import __main__ as command
from recraft_jax.data.nas360 import (
    cifar100,
    deepsea,
    ecg,
    files,
    ninapro,
    satellite,
    spherical,
)

TASKS = (
    *("cifar100", "spherical", "darcy_flow", "psicov", "cosmic", "ninapro"),
    *("fsd50k", "ecg", "satellite", "deepsea"),
)
READERS = {
    "cifar100": cifar100.load,
    "spherical": lambda root: spherical.load(root, test_in_train=False),
    "ninapro": ninapro.load,
    "ecg": ecg.load,
    "satellite": lambda root: satellite.load(root, standardise=True),
    "deepsea": deepsea.load,
}
WRITERS = {task: nas360_writers.WRITERS[task] for task in READERS}


def test_table_is_of_ten_tasks():
    table = files.tasks()
    assert tuple(table) == TASKS
    paths = [file.path for task in table.values() for file in task]
    assert len(paths) == len(set(paths))
    assert all(file.source for task in table.values() for file in task)
    assert all(
        file.least == 1 or "*" in file.path for t in table.values() for file in t
    )


@pytest.mark.parametrize("task", WRITERS)
def test_files_of_the_table_are_those_that_are_read(tmp_path, task):
    """All that a task needs is in the table, and all in the table is written."""
    WRITERS[task](tmp_path)
    there = {
        path.relative_to(tmp_path).as_posix()
        for path in tmp_path.rglob("*")
        if path.is_file()
    }
    assert there == {file.path for file in files.tasks()[task]}
    READERS[task](tmp_path)
    for path in sorted(there - {"cifar-100-python/meta"}):
        kept = (tmp_path / path).read_bytes()
        (tmp_path / path).unlink()
        with pytest.raises(errors.InputError, match=path):
            READERS[task](tmp_path)
        (tmp_path / path).write_bytes(kept)


def write_proteins(root, num):
    for place in ("features", "distance"):
        (root / "protein" / "psicov" / place).mkdir(parents=True)
    for number in range(num):
        (root / f"protein/psicov/features/P{number}.pkl").write_bytes(b"%d" % number)
    (root / "protein/psicov/distance/P0-cb.npy").write_bytes(b"")
    (root / "protein/psicov/distance/other.npy").write_bytes(b"")


def test_look(tmp_path):
    (tmp_path / "one").write_bytes(b"abc")
    found = files.look(tmp_path, files.File("one", "", ""))
    # FIPS 180-2, appendix B.1.
    want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert found == files.Found(1, 3, want, True)
    missing = files.look(tmp_path, files.File("two", "", ""))
    assert missing == files.look(tmp_path, files.File("*.npy", "", ""))
    assert missing == files.Found(0, 0, "", False)
    (tmp_path / "folder").mkdir()
    assert not files.look(tmp_path, files.File("folder", "", "")).is_complete


def test_look_at_many_files_is_sha256sum_of_sha256sum(tmp_path):
    write_proteins(tmp_path, 12)
    file = files.File("protein/psicov/features/*.pkl", "", "", 12)
    found = files.look(tmp_path, file)
    text = (
        "LC_ALL=C; export LC_ALL; sha256sum protein/psicov/features/*.pkl | sha256sum"
    )
    shell = subprocess.run(
        ["sh", "-c", text], cwd=tmp_path, capture_output=True, check=True, text=True
    )
    assert found == files.Found(12, 14, shell.stdout.split()[0], True)
    assert not files.look(tmp_path, file._replace(least=13)).is_complete


def test_large_files_are_hashed_in_pieces(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_CHUNK", 1000)
    (tmp_path / "one").write_bytes(bytes(range(256)) * 10)
    found = files.look(tmp_path, files.File("one", "", ""))
    assert found.sha256 == hashlib.sha256(bytes(range(256)) * 10).hexdigest()
    assert found.num_bytes == 2560


def run(capsys, *argv):
    code = command.main(argv)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_command_says_that_all_is_there(tmp_path, capsys):
    for write in WRITERS.values():
        write(tmp_path)
    names = ",".join(WRITERS)
    code, out, err = run(capsys, f"--root={tmp_path}", "--check", f"--tasks={names}")
    assert code == 0 and err == ""
    for task in WRITERS:
        for file in files.tasks()[task]:
            raw = (tmp_path / file.path).read_bytes()
            (line,) = re.findall(rf"^ *{task} +{re.escape(file.path)} .*$", out, re.M)
            assert line.split()[2:4] == ["present", f"{len(raw):,}"]
            assert line.split()[-1] == hashlib.sha256(raw).hexdigest()
            assert file.source in out
    assert "eb9058c3a382ffc7106e4002c42a8d85" in out and files.DRIVE in out
    assert "psicov" not in out


def test_command_says_what_is_missing(tmp_path, capsys):
    nas360_files.write_satellite(tmp_path)
    (tmp_path / "satellite_test.npy").unlink()
    write_proteins(tmp_path, 12)
    code, out, err = run(
        capsys, f"--root={tmp_path}", "--check", "--tasks=satellite,psicov"
    )
    assert code == 1
    assert re.search(r"^ *satellite +satellite_train.npy +present ", out, re.M)
    assert re.search(r"^ *satellite +satellite_test.npy +missing +35 MB *$", out, re.M)
    assert re.search(r"features/\*.pkl +12 of 150 files +14 ", out)
    (line,) = err.splitlines()
    assert line.startswith(
        f"error: {tmp_path}: missing or not complete: satellite_test"
    )
    assert line.count(",") == 6  # test split, six of psicov


def test_command_looks_for_all_tasks(tmp_path, capsys):
    code, out, _ = run(capsys, f"--root={tmp_path}", "--check")
    assert code == 1
    for task, entries in files.tasks().items():
        lines = re.findall(rf"^ *{task} +.* missing ", out, re.M)
        assert len(lines) == len(entries)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--check"], "--root"),
        (["--root=."], "--check"),
        (["--root=none/such", "--check"], "--root=none/such; allowed: a folder"),
        (["--root=.", "--check", "--tasks=other"], "--tasks=other; allowed: cifar100"),
        (["--root=.", "--check", "--other"], "allowed: .*--tasks"),
    ],
)
def test_bad_arguments_are_one_line(capsys, argv, message):
    code, out, err = run(capsys, *argv)
    assert code == 2 and out == "" and len(err.splitlines()) == 1
    assert re.search(message, err)
