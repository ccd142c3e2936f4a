"""Small files of all ten tasks, in the official layout."""

import nas360_big_files
import nas360_files

WRITERS = {
    **{name: getattr(nas360_files, f"write_{name}") for name in ("cifar100", "ecg")},
    "spherical": nas360_files.write_spherical,
    "ninapro": nas360_files.write_ninapro,
    "satellite": nas360_files.write_satellite,
    "deepsea": nas360_files.write_deepsea,
    "darcy_flow": nas360_big_files.write_darcy_flow,
    "psicov": nas360_big_files.write_psicov,
    "cosmic": nas360_big_files.write_cosmic,
    "fsd50k": nas360_big_files.write_fsd50k,
}


def write_all(folder):
    """Write all of them into one folder, which is returned."""
    for write in WRITERS.values():
        write(folder)
    return folder
