"""Write down the layout of files that PDEBench's own generators made.

    python tests/golden/make_pdebench_layout.py FOLDER > pdebench_layout.json

FOLDER holds the files under their published names (PDEBench at commit b5b646f, merged
by its `Data_Merge.py`; any size). Of grouped files the first group is described.
"""

import json
import pathlib
import sys

import h5py


def describe(path):
    """Names, shapes, types, compression, coordinates and attributes of a file."""
    found = {}

    def visit(name, item):
        entry = {"attrs": attributes(item)}
        if isinstance(item, h5py.Dataset):
            entry |= {
                "shape": list(item.shape),
                "dtype": str(item.dtype),
                "compression": item.compression,
                "chunks": item.chunks and list(item.chunks),
            }
            if item.ndim == 1:
                entry["values"] = [float(v) for v in item[:]]
        found[name] = entry

    with h5py.File(path) as file:
        top = list(file)
        if isinstance(file[top[0]], h5py.Group):
            visit(top[0], file[top[0]])
            file[top[0]].visititems(lambda name, item: visit(f"{top[0]}/{name}", item))
        else:
            file.visititems(visit)
        return {"keys": top, "attrs": attributes(file), "items": found}


def attributes(item):
    return {name: [str(v.dtype), float(v)] for name, v in item.attrs.items()}


if __name__ == "__main__":
    files = sorted(pathlib.Path(sys.argv[1]).iterdir())
    print(json.dumps({path.name: describe(path) for path in files}))
