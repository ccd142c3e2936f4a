"""Small files in the layout of NAS-Bench-360's own, for tests of its readers.

Each function writes the files of a task under `root` and returns what it wrote.
"""

import io
import pickle


class _Python2(pickle._Pickler):
    """Pickler of protocol 2 that writes bytes and names as Python 2 did."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_bytes(self, value):
        short = len(value) < 256
        size = len(value).to_bytes(1 if short else 4, "little")
        self.write((pickle.SHORT_BINSTRING if short else pickle.BINSTRING) + size)
        self.write(value)
        self.memoize(value)

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        name = name or value.__qualname__
        self.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())
        self.memoize(value)

    def save_str(self, value):
        self.save_bytes(value.encode("latin1"))

    dispatch[bytes], dispatch[str] = save_bytes, save_str
    dispatch[type], dispatch[type(save_str)] = save_global, save_global
    dispatch[type(len)] = save_global


def python_2_pickle(value):
    """Bytes of a pickle as Python 2 wrote it: every string is one of bytes."""
    stream = io.BytesIO()
    _Python2(stream, protocol=2).dump(value)
    return stream.getvalue()
