"""Freed memory is kept: seen in the page faults of using it again."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, threading
import numpy as np
from recraft_jax import memory

if sys.argv[1] == "keep":
    assert memory.keep_freed()


def use():
    np.ones(8_000_000)


def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


use()
print(min(faults() for _ in range(3)))
"""


def faults(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_memory_freed_is_used_again():
    assert faults("keep") < 100 < faults("give back")
