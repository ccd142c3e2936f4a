"""Large pages: when a command starts anew, and that it does so once, unchanged."""

import json
import os
import subprocess
import sys

import pytest

from recraft_jax import memory

SHOW = """
import json, os, sys
from recraft_jax import memory
before = os.getpid()
memory.use_huge_pages()
print(json.dumps([sys.argv[1:], os.environ.get("GLIBC_TUNABLES"), before]))
"""


@pytest.fixture
def started(monkeypatch, tmp_path):
    """What would be started, on a kernel that gives large pages to who asks."""
    calls = []
    state = tmp_path / "enabled"
    state.write_text("always [madvise] never\n")
    monkeypatch.setattr(memory, "_STATE", state)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(os, "execve", lambda *given: calls.append(given))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    return calls


def test_starts_the_same_command(started):
    memory.use_huge_pages()
    ((program, argv, environment),) = started
    assert program == sys.executable and argv == sys.orig_argv
    changed = {k for k in environment if environment[k] != os.environ.get(k)}
    assert changed == {"GLIBC_TUNABLES"}
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


def test_adds_to_other_settings(started, monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=1")
    memory.use_huge_pages()
    want = "glibc.malloc.check=1:glibc.malloc.hugetlb=1"
    assert started[0][2]["GLIBC_TUNABLES"] == want


@pytest.mark.parametrize("value", ["0", "1", "2"])
def test_leaves_a_choice_alone(started, monkeypatch, value):
    monkeypatch.setenv("GLIBC_TUNABLES", f"glibc.malloc.hugetlb={value}")
    memory.use_huge_pages()
    assert not started


@pytest.mark.parametrize("text", ["[always] madvise never", "always madvise [never]"])
def test_does_nothing_where_it_cannot_help(started, text):
    memory._STATE.write_text(text)
    memory.use_huge_pages()
    memory._STATE.unlink()
    memory.use_huge_pages()
    assert not started


def test_other_systems(started, monkeypatch):
    monkeypatch.setattr(memory.platform, "libc_ver", lambda: ("", ""))
    memory.use_huge_pages()
    monkeypatch.setattr(sys, "platform", "darwin")
    memory.use_huge_pages()
    memory.give_back()
    assert not started


def test_for_real():
    environment = {k: v for k, v in os.environ.items() if k != "GLIBC_TUNABLES"}
    with subprocess.Popen(
        [sys.executable, "-c", SHOW, "a b", "--c=d"],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        arguments, tunables, pid = json.loads(process.stdout.read())
    assert process.returncode == 0
    assert arguments == ["a b", "--c=d"] and pid == process.pid
    expected = memory._can_help() and memory.platform.libc_ver()[0] == "glibc"
    assert tunables == ("glibc.malloc.hugetlb=1" if expected else None)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_gives_back():
    code = """
from recraft_jax import memory
def resident():
    return int(open("/proc/self/statm").read().split()[1])
kept = [bytes(100_000) for _ in range(1000)]
last = bytes(100_000)  # on top of them: what lies below stays
full = resident()
del kept
before = resident()
memory.give_back()
print(full, before, resident())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    full, before, after = map(int, done.stdout.split())
    if before > 0.9 * full:  # glibc
        assert after < 0.5 * full
