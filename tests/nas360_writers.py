"""Small files of all ten tasks, in the official layout."""

import nas360_big_files
import nas360_files

WRITERS = {
    "cifar100": nas360_files.write_cifar100,
    "spherical": nas360_files.write_spherical,
    "ninapro": nas360_files.write_ninapro,
    "ecg": nas360_files.write_ecg,
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
