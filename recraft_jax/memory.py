"""Memory of the process: large pages for it, and none of it for nothing."""

import contextlib
import ctypes
import os
import pathlib
import platform
import sys

_NAME = "GLIBC_TUNABLES"
_SETTING = "glibc.malloc.hugetlb=1"  # glibc 2.35 or newer; older ones do not read it
_STATE = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")


def use_huge_pages() -> None:
    """Start this command anew, once, with a C library that asks for large pages.

    A training step on CPU takes its temporaries as a whole and gives them back at the
    end; Linux hands them out page by page, zeroed: 187,000 page faults in a gradient of
    RoBERTa-base, a seventh of its time. With pages of 2 MiB that is gone, and results
    do not change. The C library reads its settings only when a process starts, which is
    why this starts it again; call it before slow imports. It does nothing where it
    cannot help, or where the user has chosen.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    given = os.environ.get(_NAME, "")
    if "glibc.malloc.hugetlb" in given or not _can_help():
        return
    environment = os.environ | {_NAME: ":".join(filter(None, (given, _SETTING)))}
    with contextlib.suppress(OSError):  # as fast as without
        os.execve(sys.executable, sys.orig_argv, environment)


def _can_help() -> bool:
    """Whether the kernel gives large pages to who asks, and not to everyone."""
    with contextlib.suppress(OSError):
        return "[madvise]" in _STATE.read_text()
    return False


def give_back() -> None:
    """Return freed memory to the system, where the C library can (glibc).

    It keeps freed pieces below 32 MB: after the weights of RoBERTa-base were made, 0.2
    GB that nothing will ask for again.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
