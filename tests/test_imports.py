"""Who may import whom: modules by layer, dependencies by door.

A new module or dependency fails here until it has a line in one of the two tables.
"""

import ast
import fnmatch
import functools
import pathlib
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
PACKAGE = "recraft_jax"

LAYER0 = (
    *("tree", "phase", "mesh", "hosts", "clock", "errors", "paths", "writer", "cli"),
    *("naming", "memory"),
)
MODELS_TO_DATA = ("assets", "metrics", "data/*", "losses/*", "methods/*", "models/*")

# Module -> modules of the package it may import; `.` is the root's `__init__`. The
# first line that fits counts.
MAY_IMPORT = {
    ".": ("estimators",),
    **dict.fromkeys(LAYER0, LAYER0),
    "asset_table": (),
    "assets": ("asset_table", "errors"),
    "artifact_loader": (),
    "artifact": ("artifact_loader", "errors", "paths", "writer"),
    **dict.fromkeys(("state", "optim", "checkpoints"), LAYER0),
    "steps": (*LAYER0, "state"),
    "losses/*": ("losses/*",),
    "models/pretrained": (*LAYER0, "assets", "models/*"),
    "models/*": (*LAYER0, "models/*"),
    "metrics": (),
    "data/nas360/__main__": ("cli", "errors", "data/*"),
    "data/*": ("errors", "data/*"),
    "pde/*": ("errors", "pde/*"),
    "methods/*": ("phase", "mesh", "tree", "errors", "losses/*", "methods/*"),
    "baselines": ("metrics", "writer", "data/rows", "data/tasks"),
    "scoring": ("mesh", "data/pipeline", "losses/*"),
    "sources": ("errors", *MODELS_TO_DATA),
    "generate": (
        *("cli", "errors", "generate_nas360", "mesh", "provenance", "writer"),
        *("data/pdebench*", "pde/*"),
    ),
    "generate_nas360": (
        *("errors", "provenance", "writer"),
        *("data/nas360/spherical", "pde/piecewise_darcy"),
    ),
    "targets_custom": ("errors", "data/*"),
    "targets_nas360": ("errors", "data/*"),
    "targets": (
        *("errors", "paths", "asset_table", "assets", "generate", "writer"),
        *("targets_*", "data/*"),
    ),
    "build": (*LAYER0, *MODELS_TO_DATA, "sources", "targets*"),
    "assembly": (*LAYER0, *MODELS_TO_DATA, "build", "optim", "state"),
    "defaults": (),
    "predictor": (
        *(*LAYER0, "build"),
        *("data/pipeline", "data/tasks", "models/body", "models/pretrained"),
    ),
    "outputs": ("errors",),
    "predict": (
        *("cli", "errors", "outputs", "predictor", "writer"),
        *("data/arrays_file", "data/rows"),
    ),
    "estimators": (
        *("defaults", "errors", "main", "predictor", "targets_custom", "writer"),
        *("data/custom", "data/custom_rules"),
    ),
    "export": ("artifact", "cli", "errors", "predictor", "writer"),
    "describe": ("build", "naming", "phase", "tree", "data/tasks"),
    "provenance": (".", "errors", "tree"),
    "measure": ("errors", "provenance"),
    "program": (),
    "benchmark_bodies": (
        *(*LAYER0, "measure", "program", "state", "steps"),
        *("losses/distortion", "models/*"),
    ),
    "benchmark_scaling": (
        *(*LAYER0, "measure", "state", "steps"),
        *("program", "benchmark_bodies"),
    ),
    "benchmark_alignment": ("measure", "memory", "losses/*"),
    "benchmark_torch": ("measure",),
    "benchmark_sizes": (*LAYER0, "benchmark_bodies", "measure", "plots"),
    "benchmark_jobs": ("*", "!benchmark_torch", "!evaluate"),
    "benchmark": ("cli", "errors", "measure", "writer", "benchmark_*"),
    "benchmark_generation": (
        *("cli", "errors", "generate", "measure", "writer"),
        *("data/pdebench_layout", "pde/equation"),
    ),
    "gap": (".", "errors", "tree"),
    "plots": (".", "errors", "gap"),
    "field_plots": (".", "errors", "plots"),
    "report": (".", "cli", "errors", "naming", "gap", "plots", "field_plots"),
    "comparison_stats": (".",),
    "comparison": (".", "comparison_stats", "errors", "naming"),
    "comparison_tables": (".", "comparison", "comparison_stats", "naming"),
    "comparison_plots": (".", "comparison", "naming", "plots"),
    "comparison_grid": (".", "comparison", "errors", "main", "naming", "tree"),
    "compare": (".", "cli", "comparison*", "errors", "plots", "writer"),
    "train": ("*", "!main", "!evaluate"),
    "evaluate": ("*", "!train"),
    "main": ("*",),
}

# Dependency -> modules that may import it, in which `!` takes one out again.
DOORS = {
    "numpy": ("*",),
    "jaxtyping": ("*",),
    "rich": ("*",),
    "jax": (
        "*",
        "!data/*",
        "data/generators",
        "!report",
        "!gap",
        "!plots",
        "!field_plots",
        "!compar*",
    ),
    "fsspec": ("paths",),
    "etils": ("paths",),
    "absl.logging": ("*",),
    "absl": ("*", "!data/*", "!losses/*"),
    "ml_collections": ("*", "!data/*", "!losses/*"),
    "ott": ("losses/ot", "losses/otdd"),
    "orbax": ("checkpoints",),
    "grain": ("data/pipeline",),
    "flax": ("models/*", "state"),
    "optax": (
        *("optim", "steps", "state", "assembly", "losses/task"),
        "benchmark_bodies",
    ),
    "safetensors": ("models/pretrained", "predictor", "artifact"),
    "tokenizers": ("data/text",),
    "transformers": ("models/pretrained", "benchmark_torch"),
    "tensorflow_datasets": ("data/tfds",),
    "h5py": (
        *("data/pdebench_file", "data/nas360/darcy_flow", "data/arrays_store"),
        "outputs",
    ),
    "pyarrow": ("data/arrays_table",),
    "tensorstore": ("data/arrays_store",),
    "sklearn": (
        *("data/pseudo_labels", "data/arrays_file"),
        *("baselines", "methods/heads", "metrics", "estimators"),
        "data/nas360/ecg",
    ),
    "threadpoolctl": ("baselines",),
    "scipy": (
        *("pde/*", "losses/bound", "methods/heads", "methods/lipschitz", "gap"),
        *("comparison_stats", "data/nas360/darcy_flow"),
    ),
    "librosa": ("data/nas360/mel",),
    "soundfile": ("data/nas360/mel",),
    "matplotlib": ("plots", "field_plots", "comparison_plots", "benchmark_sizes"),
    "pickle": ("data/torch_file", "data/numpy_pickle"),
    "torch": ("benchmark_torch", "benchmark_alignment", "measure"),
    "geomloss": ("benchmark_torch", "benchmark_alignment", "measure"),
}


def modules():
    """Every module of the package with its source, by its path without `.py`."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        name = path.relative_to(ROOT / PACKAGE).with_suffix("").as_posix()
        found[name.removesuffix("__init__").removesuffix("/") or "."] = path.read_text()
    return found


@functools.cache
def imported(source):
    """The dotted names that any import statement, however deep, may load."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = "." * node.level + (node.module or "")
            found += (f"{start}.{alias.name}" for alias in node.names)
    return tuple(found)


def fits(name, patterns):
    """Whether the last pattern that fits takes the name in."""
    verdict = False
    for pattern in patterns:
        if fnmatch.fnmatchcase(name, pattern.removeprefix("!")):
            verdict = not pattern.startswith("!")
    return verdict


def violations(sources):
    """List what breaks the tables in `{module: source}`."""
    found = []
    for module, source in sources.items():
        # A folder's `__init__` is placed with what it holds.
        place = f"{module}/*" if f"{module}/*" in MAY_IMPORT else module
        lines = [line for line in MAY_IMPORT if fnmatch.fnmatchcase(place, line)]
        if not lines:
            found.append(f"{module} is in no layer")
            continue
        for name in imported(source):
            top, _, rest = name.partition(".")
            if top == PACKAGE:
                target = rest.replace(".", "/")
                while target and target not in sources:  # a name within a module
                    target = target.rpartition("/")[0]
                is_allowed = fits(target or ".", MAY_IMPORT[lines[0]])
            elif top in sys.stdlib_module_names and top not in DOORS:
                is_allowed = True
            else:
                doors = [d for d in DOORS if f"{name}.".startswith(f"{d}.")]
                is_allowed = bool(doors) and fits(module, DOORS[max(doors, key=len)])
            if not is_allowed:
                found.append(f"{module} imports {name}")
    return found


def test_package_obeys_layers_and_doors():
    assert violations(modules()) == []


def test_configs_import_only_each_other_and_defaults():
    paths = sorted((ROOT / "configs").rglob("*.py"))
    assert paths
    for path in paths:
        names = set(imported(path.read_text()))
        ours = {name for name in names if name.startswith(PACKAGE)}
        assert all(f"{name}.".startswith("recraft_jax.defaults.") for name in ours)
        tops = {name.partition(".")[0] for name in names - ours}
        allowed = {"configs", "ml_collections", *sys.stdlib_module_names}
        assert not tops - allowed, path.name


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("tree", "from recraft_jax import optim"),
        ("errors", "from recraft_jax import state"),
        ("assets", "from recraft_jax import tree"),
        ("artifact_loader", "from recraft_jax import errors"),
        ("state", "from recraft_jax import optim"),
        ("steps", "import recraft_jax.optim"),
        ("losses/ot", "from recraft_jax import errors"),
        ("losses/ot", "from recraft_jax.models import bert"),
        ("models/bert", "from recraft_jax.data import tasks"),
        ("models/bert", "from recraft_jax.losses.ot import wasserstein1"),
        ("metrics", "from recraft_jax import errors"),
        ("data/tasks", "from recraft_jax import metrics"),
        ("methods/fit", "from recraft_jax import errors, state"),
        ("methods/fit", "def late():\n    from recraft_jax.models import bert"),
        ("baselines", "from recraft_jax.data import pipeline"),
        ("scoring", "from recraft_jax import steps"),
        ("build", "from recraft_jax import train"),
        ("report", "from recraft_jax import train"),
        ("report", "import jax.numpy as jnp"),
        ("gap", "import jax"),
        ("gap", "from recraft_jax import plots"),
        ("report", "import matplotlib"),
        ("comparison", "import jax"),
        ("comparison", "from recraft_jax import writer"),
        ("compare", "from recraft_jax import train"),
        ("data/tasks", "import jax"),
        ("data/nas360/files", "from recraft_jax import cli"),
        ("data/nas360/spherical", "import pickle"),
        ("data/pdebench", "import h5py"),
        ("pde/burgers", "from recraft_jax.data import pdebench_layout"),
        ("targets", "from recraft_jax import build"),
        (
            "data/tasks",
            "try:\n    from jax import numpy\nexcept ImportError:\n    pass",
        ),
        ("data/pipeline", "from absl import flags"),
        ("losses/task", "import ml_collections"),
        ("losses/task", "import ott.geometry"),
        ("train", "from orbax import checkpoint"),
        ("train", "import flax.linen as nn"),
        ("train", "import optax"),
        ("train", "import grain"),
        ("models/bert", "import safetensors.numpy"),
        ("models/bert", "import tokenizers"),
        ("train", "from sklearn import svm"),
        ("checkpoints", "import pickle"),
        ("train", "import torch"),
        ("losses/ot", "import geomloss"),
        ("steps", "import torch"),
        ("benchmark_bodies", "from recraft_jax import train"),
        ("data/text", "import tensorflow as tf"),
        ("data/images", "import tensorflow_datasets"),
        ("data/tfds", "import tensorflow as tf"),
        ("data/custom", "import pyarrow.csv"),
        ("data/arrays_table", "import h5py"),
        ("train", "from tests import conftest"),
        ("losses/ot", "from . import distortion"),
        ("novel", ""),
        ("data/deeper/novel", "import jax"),
    ],
)
def test_checker_catches_planted_violation(module, source):
    planted = modules() | {module: source}
    assert len(violations(planted)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("train", "from recraft_jax import build, steps"),
        ("methods/fit", "from recraft_jax.losses.distortion import joint"),
        ("data/tasks", "from absl import logging"),
        ("pde/burgers", "import jax"),
        ("provenance", "import recraft_jax"),
        ("losses/otdd", "from ott.geometry import costs"),
        ("measure", "def late():\n    import geomloss, torch"),
        ("tree", "import os.path, numpy.linalg"),
    ],
)
def test_checker_allows_what_the_tables_allow(module, source):
    assert violations(modules() | {module: source}) == []
