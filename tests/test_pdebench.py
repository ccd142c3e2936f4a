"""PDEBench files: layout as published, pairs of both protocols, files gone wrong."""

import importlib.util
import json
import pathlib

import h5py
import numpy as np
import pytest

from recraft_jax import errors
from recraft_jax.data import pdebench, pdebench_file
from recraft_jax.data.pdebench_layout import LAYOUTS

GOLDEN = pathlib.Path(__file__).parent / "golden"
NUM, NX = 20, 8
ONE_D = [name for name, layout in LAYOUTS.items() if layout.space == "x"]


def walker():
    """The function that wrote the golden layouts down."""
    path = GOLDEN / "make_pdebench_layout.py"
    spec = importlib.util.spec_from_file_location("make_pdebench_layout", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.describe


def random_fields(task, num, nx, seed=0):
    rng = np.random.default_rng(seed)
    layout = LAYOUTS[task]
    return {
        name: rng.normal(1, 1, (num, *layout.sample_shape(name, nx))).astype(np.float32)
        for name in layout.fields
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """`task -> (path, fields)` of files with random values, each written once."""
    folder, cache = tmp_path_factory.mktemp("pdebench"), {}

    def make(task):
        if task not in cache:
            path = folder / LAYOUTS[task].file
            fields = random_fields(task, NUM, NX)
            parts = [
                {name: values[rows] for name, values in fields.items()}
                for rows in (slice(0, 13), slice(13, NUM))
            ]
            pdebench_file.write(path, task, NX, range(NUM), parts)
            cache[task] = path, fields
        return cache[task]

    return make


# ----------------------------------------------------------------------------- layout
@pytest.mark.parametrize("task", [t for t in LAYOUTS if t != "cfd_2d"])
def test_files_have_the_layout_of_pdebenchs_generators(task, tmp_path):
    golden = json.loads((GOLDEN / "pdebench_layout.json").read_text())
    want = golden[LAYOUTS[task].file]
    num = len(want["keys"])
    if not LAYOUTS[task].is_grouped:
        num = want["items"][next(iter(LAYOUTS[task].fields))]["shape"][0]
    found = want["items"]
    name = "0000/grid/x" if LAYOUTS[task].is_grouped else "x-coordinate"
    nx = len(found[name]["values"])
    path = tmp_path / LAYOUTS[task].file
    pdebench_file.write(path, task, nx, range(num), [random_fields(task, num, nx)])
    assert walker()(path) == want


def test_group_names_are_seeds_of_four_digits_or_more(tmp_path):
    keys = [7, 12_345]
    fields = random_fields("diffusion_sorption", 2, NX)
    path = tmp_path / "file.h5"
    pdebench_file.write(path, "diffusion_sorption", NX, keys, [fields])
    with h5py.File(path) as file:
        assert list(file) == ["0007", "12345"]


def test_a_failed_write_leaves_nothing(tmp_path):
    def parts():
        yield random_fields("darcy", 1, NX)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        pdebench_file.write(tmp_path / "file.hdf5", "darcy", NX, range(2), parts())
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------ pairs
def cut(task, fields, rows, frame, protocol, side):
    """Take one side of the pairs by hand, as the specification's table says."""
    official = protocol == "official"
    at = 0 if side == "x" else frame
    if task in ("advection", "burgers", "diffusion_reaction"):
        step = 4 if task == "advection" else 1
        return fields["tensor"][rows, at, ::step][:, None, :]
    if task == "diffusion_sorption":
        return fields["data"][rows, at, :, 0][:, None, :]
    if task == "cfd_1d":
        parts = [fields[k][rows, at] for k in ("density", "pressure", "Vx")]
        return np.concatenate(parts, axis=1)[:, None, :]
    if task == "darcy":
        if side == "x":
            return fields["nu"][rows, ::2, ::2][:, None]
        return fields["tensor"][rows, 0, ::2, ::2][:, None]
    if task == "shallow_water":
        return fields["data"][rows, at, :, :, 0][:, None]
    if task == "diffusion_reaction_2d":
        u, v = (fields["data"][rows, at, :, :, c] for c in (0, 1))
        if official:
            return (u if side == "x" else v)[:, None]
        return np.stack([u, v], axis=1)
    parts = [fields[k][rows, at, ::2, ::2] for k in ("density", "pressure", "Vx", "Vy")]
    return np.stack(parts, axis=1)


FRAMES = {  # official training and test frame, corrected frame
    "advection": (200, 200, 200),
    "burgers": (200, 200, 2),
    "diffusion_reaction": (29, 99, 2),
    "diffusion_sorption": (100, 99, 100),
    "cfd_1d": (100, 100, 100),
    "darcy": (None, None, None),
    "shallow_water": (100, 99, 100),
    "diffusion_reaction_2d": (100, 99, 100),
    "cfd_2d": (20, 20, 20),
}
LAST = ("diffusion_sorption", "shallow_water", "diffusion_reaction_2d", "cfd_2d")
TEST = {True: np.arange(18, 20), False: np.arange(2)}
TRAIN = {True: np.arange(18), False: np.arange(2, 20)}


@pytest.mark.parametrize("task", LAYOUTS)
def test_official_pairs_are_those_of_the_table(task, made):
    path, fields = made(task)
    train_frame, test_frame, _ = FRAMES[task]
    is_last = task in LAST
    norm = {side: (0.0, 1.0) for side in "xy"}
    if task in ("cfd_1d", "cfd_2d"):
        for side in "xy":
            of = "x" if task == "cfd_1d" else side  # targets too
            on = cut(task, fields, TRAIN[is_last], train_frame, "official", of)
            mean = on.astype(np.float64).mean(0)
            std = np.sqrt(((on - mean) ** 2).sum(0) / (len(on) - 1)) + 1e-5
            norm[side] = mean, std
    for split, rows, frame in (
        ("train", TRAIN[is_last], train_frame),
        ("val", TEST[is_last], test_frame),
        ("test", TEST[is_last], test_frame),
    ):
        got = pdebench.load(path, task, split, "official")
        for side in "xy":
            mean, std = norm[side]
            want = (cut(task, fields, rows, frame, "official", side) - mean) / std
            assert got[side].shape == want.shape
            assert got[side].dtype == np.float32
            np.testing.assert_allclose(got[side], want, rtol=1e-5, atol=1e-5)
        assert got["frame"] == frame


@pytest.mark.parametrize("task", LAYOUTS)
def test_corrected_pairs_hold_validation_out(task, made):
    path, fields = made(task)
    is_last, frame = task in LAST, FRAMES[task][2]
    got = {s: pdebench.load(path, task, s) for s in ("train", "val", "test")}
    assert [len(got[s]["x"]) for s in ("train", "val", "test")] == [16, 2, 2]
    # Training and validation samples together are the rest, each once, in pairs.
    rest = cut(task, fields, TRAIN[is_last], frame, "corrected", "x").reshape(18, -1)
    both = np.concatenate([got[s]["x"] for s in ("train", "val")]).reshape(18, -1)
    place = [int(np.flatnonzero((rest == row).all(1))[0]) for row in both]
    assert sorted(place) == list(range(18))
    for side in "xy":
        want = cut(task, fields, TEST[is_last], frame, "corrected", side)
        np.testing.assert_array_equal(got["test"][side], want)
        want = cut(task, fields, TRAIN[is_last], frame, "corrected", side)[place]
        both = np.concatenate([got["train"][side], got["val"][side]])
        np.testing.assert_array_equal(both, want)
    assert {got[s]["frame"] for s in got} == {frame}


def test_published_shapes():
    shapes = {
        "advection": (1, 256),
        "burgers": (1, 1024),
        "diffusion_reaction": (1, 1024),
        "diffusion_sorption": (1, 1024),
        "cfd_1d": (1, 3072),
        "darcy": (1, 64, 64),
        "shallow_water": (1, 128, 128),
        "diffusion_reaction_2d": (1, 128, 128),
        "cfd_2d": (4, 64, 64),
    }
    for task, (channels, *space) in shapes.items():
        layout, stride = LAYOUTS[task], pdebench.PAIRS[task].stride
        cells = layout.nx // stride * (3 if task == "cfd_1d" else 1)
        assert [cells] * len(layout.space) == space
        assert channels == (len(layout.fields) if task == "cfd_2d" else 1)
    assert pdebench.split_rows(10_000, pdebench.PAIRS["darcy"]) == (
        slice(1000, 10_000),
        slice(0, 1000),
    )
    assert pdebench.split_rows(1000, pdebench.PAIRS["shallow_water"]) == (
        slice(0, 900),
        slice(900, 1000),
    )


def test_a_part_of_the_samples_is_their_beginning(made):
    path, fields = made("burgers")
    settings = {"num_samples": 5, "num_test": 1}
    got = pdebench.load(path, "burgers", "train", "official", **settings)
    np.testing.assert_array_equal(got["x"][:, 0], fields["tensor"][2:7, 0])
    got = pdebench.load(path, "burgers", "test", "official", **settings)
    np.testing.assert_array_equal(got["x"][:, 0], fields["tensor"][:1, 0])


def test_coordinates_are_the_cells_that_are_kept(made):
    got = pdebench.load(made("advection")[0], "advection", "test")
    np.testing.assert_allclose(got["coords"], [1 / 16, 9 / 16])


def test_floor_is_the_error_of_the_frame_that_was_taught(made):
    path, fields = made("diffusion_reaction")
    taught, asked = (fields["tensor"][:2, frame] for frame in (29, 99))
    want = np.sqrt(((taught - asked) ** 2).sum(1) / (asked**2).sum(1)).mean()
    got = pdebench.official_floor(path, "diffusion_reaction")
    np.testing.assert_allclose(got, want, rtol=1e-6)
    assert pdebench.official_floor(made("burgers")[0], "burgers") == 0


def test_floor_of_2d_diffusion_reaction_looks_at_the_inhibitor(made):
    path, fields = made("diffusion_reaction_2d")
    taught, asked = (fields["data"][18:, f, ..., 1].reshape(2, -1) for f in (100, 99))
    want = np.sqrt(((taught - asked) ** 2).sum(1) / (asked**2).sum(1)).mean()
    got = pdebench.official_floor(path, "diffusion_reaction_2d")
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_reading_takes_the_frames_and_not_the_file(made, monkeypatch):
    read = []
    whole = h5py.Dataset.__getitem__

    def counting(dataset, *args, **kwargs):
        values = whole(dataset, *args, **kwargs)
        read.append(np.size(values))
        return values

    monkeypatch.setattr(h5py.Dataset, "__getitem__", counting)
    pdebench.load(made("burgers")[0], "burgers", "train")
    assert sum(read) == 2 * 18 * NX  # of the 20 x 201 x 8 there


# ------------------------------------------------------------------------- bad files
def refuse(path, task, message, split="train", protocol="corrected"):
    with pytest.raises(errors.InputError, match=message) as caught:
        pdebench.load(path, task, split, protocol)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named_with_where_to_get_it(tmp_path):
    refuse(tmp_path / "no.hdf5", "burgers", "no such file.*darus-2986.*generate --task")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
@pytest.mark.parametrize("task", ["burgers", "diffusion_sorption"])
def test_truncated_file(task, share, made, tmp_path):
    content = made(task)[0].read_bytes()
    path = tmp_path / "part.hdf5"
    path.write_bytes(content[: int(share * len(content))])
    refuse(path, task, "cannot be read.*a whole HDF5 file")


def test_file_with_a_damaged_middle(made, tmp_path):
    content = bytearray(made("diffusion_sorption")[0].read_bytes())
    middle = len(content) // 2
    content[middle : middle + 20_000] = bytes(20_000)
    path = tmp_path / "damaged.h5"
    path.write_bytes(content)
    refuse(path, "diffusion_sorption", "damaged.h5")


def test_half_copied_file_of_full_length(made, tmp_path):
    content = made("burgers")[0].read_bytes()
    path = tmp_path / "half.hdf5"
    half = len(content) // 2
    path.write_bytes(content[:half] + bytes(len(content) - half))
    refuse(path, "burgers", "nothing but zeros|cannot be read|holds")


@pytest.mark.parametrize(
    ("task", "other", "message"),
    [
        ("burgers", "darcy", "holds nu, tensor.*a file of task darcy.*allowed"),
        ("burgers", "cfd_1d", "a file of task cfd_1d"),
        ("burgers", "shallow_water", "holds 0000"),
        ("burgers", "advection", "attributes beta; allowed for task burgers: Nu"),
        ("advection", "diffusion_reaction", r"\[20, 101, 8\]; allowed.*\[20, 201, 8\]"),
        ("shallow_water", "burgers", "holds t-coordinate.*groups named by seeds"),
        ("shallow_water", "diffusion_reaction_2d", r"\[101, 8, 8, 2\]; allowed"),
        ("diffusion_sorption", "shallow_water", "allowed for task diffusion_sorption"),
        ("cfd_2d", "cfd_1d", "a file of task cfd_1d"),
    ],
)
def test_file_of_another_task(task, other, message, made):
    refuse(made(other)[0], task, message)


def test_file_of_other_parameters(made, tmp_path):
    path = tmp_path / "other.hdf5"
    path.write_bytes(made("advection")[0].read_bytes())
    with h5py.File(path, "a") as file:
        file.attrs["beta"] = 4.0
    refuse(path, "advection", "attribute beta is 4.0; allowed for task advection: 0.4")


def test_wrong_shapes_and_types(made, tmp_path):
    path = tmp_path / "wrong.hdf5"
    path.write_bytes(made("cfd_1d")[0].read_bytes())
    with h5py.File(path, "a") as file:
        values = file["Vx"][:]
        del file["Vx"]
        file["Vx"] = values[:, :-1]
    refuse(path, "cfd_1d", r"/Vx is float32 \[20, 100, 8\]; allowed")
    with h5py.File(path, "a") as file:
        del file["Vx"]
        file["Vx"] = values.astype(np.float64)
    refuse(path, "cfd_1d", "/Vx is float64")


def test_wrong_shape_of_one_group(made, tmp_path):
    path = tmp_path / "wrong.h5"
    path.write_bytes(made("diffusion_sorption")[0].read_bytes())
    with h5py.File(path, "a") as file:
        del file["0005/data"]
        file["0005/data"] = np.ones((101, 7, 1), np.float32)
    refuse(path, "diffusion_sorption", r"/0005/data is float32 \[101, 7, 1\]; allowed")


@pytest.mark.parametrize("task", ["burgers", "diffusion_sorption"])
def test_groups_and_numbers_where_arrays_are_meant(task, made, tmp_path):
    path = tmp_path / "wrong.h5"
    path.write_bytes(made(task)[0].read_bytes())
    name = "tensor" if task == "burgers" else "0000/data"
    for put in (
        lambda file: file.create_group(name),
        lambda file: file.create_dataset(name, data=1.0),
    ):
        with h5py.File(path, "a") as file:
            del file[name]
            put(file)
        refuse(path, task, "cannot be read")


@pytest.mark.parametrize("task", ["burgers", "diffusion_sorption"])
def test_values_that_are_not_finite(task, made, tmp_path):
    path = tmp_path / "nan.h5"
    path.write_bytes(made(task)[0].read_bytes())
    frame = FRAMES[task][2]
    with h5py.File(path, "a") as file:
        if task == "burgers":
            file["tensor"][11, frame, 3] = np.nan
        else:
            file["0011/data"][frame, 3] = np.inf
    refuse(
        path, task, rf"at frame {frame} has values that are not finite.*first in 0*11;"
    )
    pdebench.load(path, task, "test")  # whose samples are whole


def test_cells_that_the_stride_does_not_divide(tmp_path):
    path = tmp_path / "odd.hdf5"
    fields = random_fields("darcy", 4, 9)
    pdebench_file.write(path, "darcy", 9, range(4), [fields])
    refuse(path, "darcy", "9 cells; allowed for task darcy: multiples of 2")


def test_one_sample_is_not_enough(tmp_path):
    path = tmp_path / "one.hdf5"
    pdebench_file.write(path, "darcy", 8, [0], [random_fields("darcy", 1, 8)])
    refuse(path, "darcy", "1 samples leave none for train; allowed: 2 or more")


@pytest.mark.parametrize(
    ("task", "split", "protocol"),
    [
        ("burger", "train", "official"),
        ("burgers", "valid", "official"),
        ("burgers", "train", "fair"),
    ],
)
def test_unknown_names(task, split, protocol, made):
    refuse(made("burgers")[0], task, "allowed:", split, protocol)
