"""Train one method on one task.

    python -m recraft_jax.main --config=FILE[:TASK[,key=value...]] [--workdir=DIR]
        [--config.section.name=value ...]

Keys: method, backbone, scale, protocol, preset, seed. Running the same command again
resumes an unfinished run, or prints the table of a finished one. SIGTERM saves, then
ends with exit code 75: the same command goes on.

On several machines, or in several processes of one, start the same command in each with
--multihost, and with --coordinator=HOST:PORT --num_processes=N --process_id=I where the
machines do not know these (TPU, SLURM, Open MPI and Kubernetes do). --workdir must be a
folder that all of them see; it may be in a bucket, gs://BUCKET/... or s3://BUCKET/...
"""

from recraft_jax import memory

if __name__ == "__main__":
    memory.use_huge_pages()  # starts anew, so before what takes long to import

import contextlib
import difflib
import fcntl
import hashlib
import importlib.util
import json
import pathlib
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any

import ml_collections
from absl import flags
from ml_collections import config_flags

from recraft_jax import errors, hosts, paths, report, tree, writer

# Sections that say where and how loud, not what: a run may resume with others.
_NOT_IDENTITY = ("assets", "log", "input", "devices")
SHARED_SECONDS = 15.0  # until what one machine wrote is there for the others

# Repeated from `methods/`, whose import would load JAX; a test holds the two together.
CHOICES = {
    "data.loss": ("relative_l2", "rmse"),
    "data.mode": ("accurate", "compat"),
    "body.dtype": ("float32", "bfloat16"),
    "embedder.init": ("pretrained", "xavier", "normal"),
    "head.kind": ("linear", "pool"),
    "fa.kind": ("w1", "w2sq_half", "otdd_single_label"),
    "fld.kind": ("mi", "transport", "entropy", "negative_sets"),
    "fld.transport_cost": ("prototype", "class", "joint"),
    "lipschitz.method": ("penalty", "rescale", "none"),
    "lipschitz.u_space": ("pooled", "mixed"),
    "lipschitz.norm_axis": ("sample", "tokens"),
    "stage1.mode": ("joint", "sequential"),
    "stage2.trainable": ("full", "norms", "head"),
}


def main(argv: Sequence[str]) -> int:
    """Run the command line; returns the exit code."""
    writer.set_up_logging()
    try:
        if {"-h", "--help", "-help"} & set(argv[1:]):
            print(__doc__)
            return 0
        place, rest = hosts.take_place(argv)
        config, workdir = parse(rest)
        if place is not None:
            hosts.start(*place)
        start(config, workdir)
    except errors.Preempted as error:
        code = _fail(str(error), error.exit_code, is_agreed=True)
    except (errors.InputError, errors.RunError) as error:
        code = _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        code = _fail("interrupted; run the same command again to resume", 130)
    except OSError as error:
        if error.errno not in errors.ENVIRONMENT:
            raise
        code = _fail(str(error), errors.InputError.exit_code)
    except Exception as error:
        if not hosts.is_several():
            raise
        # Others may be waiting for this process.
        message = hosts.describe_loss(error)
        if message is None:
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
        code = _fail(message, errors.RunError.exit_code)
    else:
        code = 0
    hosts.finish()
    return code


def parse(argv: Sequence[str]) -> tuple[ml_collections.ConfigDict, paths.Path]:
    """Read flags: the config with its overrides, locked, and the workdir.

    Raises:
      InputError: no config, an unknown flag, task, key or field, a value of wrong type.
    """
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    spec, rest = _take_config(argv)
    config = _load_config(spec)
    for arg in rest[1:]:
        _check_field(config, arg)
    try:
        config_flags.DEFINE_config_dict(
            "config", config, lock_config=True, flag_values=values, sys_argv=rest
        )
        extra = values(rest)[1:]
    except (flags.Error, AttributeError, TypeError, ValueError) as error:
        raise errors.InputError(" ".join(str(error).split())) from None
    if extra:
        raise errors.InputError(
            f"unknown argument {extra[0]!r}; allowed: --config=FILE[:TASK[,key=value"
            "...]], --workdir=DIR, --config.section.name=value"
        )
    flags.FLAGS.mark_as_parsed()  # Grain looks there when it starts processes
    if values.config.task == "custom":
        from recraft_jax import targets_custom  # opens the file

        targets_custom.resolve(values.config)
    check(values.config)
    workdir = values.workdir or default_workdir(values.config)
    return values.config, paths.make(workdir, "--workdir")


def start(config: ml_collections.ConfigDict, workdir: paths.Path) -> None:
    """Run, resume, or show what is finished."""
    results = run(config, workdir)
    if hosts.is_first():
        report.closing(results, workdir)


def run(
    config: ml_collections.ConfigDict, workdir: paths.Path, task: Any = None
) -> dict[str, Any]:
    """Run, resume or read what is finished; returns the content of `results.json`.

    Args:
      config: locked, checked.
      workdir: made if it is not there.
      task: a `tasks.Task` to train on; None loads that of the config.
    """
    settings = json.loads(config.to_json_best_effort())
    hosts.check_same(
        json.dumps({"config": settings, "workdir": str(workdir)}, sort_keys=True),
        "config or workdir",
        "the same command in each process",
    )
    workdir.mkdir(parents=True, exist_ok=True)
    with _lock(workdir) if hosts.is_first() else contextlib.nullcontext():
        results = json.loads(hosts.from_first(lambda: _prepare(settings, workdir)))
        if results is None:
            _check_shared(workdir)
            results = _train(config, workdir, task)
    return results


@contextlib.contextmanager
def _lock(workdir: paths.Path):
    """Keep other runs out of a workdir on disk; buckets have no locks."""
    if not paths.is_local(workdir):
        yield
        return
    with (workdir / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise errors.InputError(
                f"another process is running in {workdir}; allowed: one run per workdir"
            ) from None
        yield


def _prepare(settings: dict[str, Any], workdir: paths.Path) -> bytes:
    """Results of a finished run, as JSON; for another `null`, its config written."""
    _check_same(settings, workdir)
    finished = workdir / "results.json"
    if finished.exists():
        return finished.read_bytes()
    writer.write_json(workdir / "config.json", settings)
    return b"null"


def _check_shared(workdir: paths.Path) -> None:
    """Refuse a workdir that each process has for itself."""
    deadline = time.monotonic() + SHARED_SECONDS
    while not (workdir / "config.json").exists():
        if time.monotonic() > deadline:
            raise errors.InputError(
                f"--workdir={workdir}: there is no config.json, which process 0 wrote; "
                "allowed with --multihost: a folder that all processes see"
            )
        time.sleep(0.1)


def default_workdir(config: ml_collections.ConfigDict) -> str:
    """Name a folder after the run and a hash of all that decides its numbers."""
    settings = json.loads(config.to_json_best_effort())
    text = json.dumps(_identity(settings), sort_keys=True)
    backbone = pathlib.PurePath(config.backbone).name
    name = f"{config.task}-{config.method}-{backbone}-{config.scale}-{config.seed}"
    return f"runs/{name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def check(config: ml_collections.ConfigDict) -> None:
    """Refuse values no run can use, before any work."""
    positive = (
        "stage1.batch_size stage2.batch_size stage2.eval_batch_size stage2.num_epochs "
        "embedder.max_tokens fld.num_clusters unet.features source.num_features "
        "source.max_length lipschitz.num_samples log.every_steps "
        "checkpoint.every_steps stage2.accumulate"
    ).split()
    if config.method in ("recraft", "fa", "fld"):
        positive.append("stage1.num_steps")
    for path in positive:
        section, name = path.split(".")
        if config[section][name] < 1:
            _refuse(config, path, "1 or more")
    for path in (
        *("fa.omega", "fa.epsilon", "fld.weight"),
        *("lipschitz.tau", "lipschitz.rho"),
        *("embedder.patch", "embedder.image_size", "input.num_workers"),
    ):
        section, name = path.split(".")
        if config[section][name] < 0:
            _refuse(config, path, "0 or more")
    if config.method in ("recraft", "fa", "fld") and not (
        config.fa.omega or config.fld.weight
    ):
        raise errors.InputError(
            f"method {config.method} with fa.omega = 0 and fld.weight = 0 has no stage "
            "1; allowed: one above 0, or method nft"
        )
    for path in ("data.val_frac", "source.test_frac", "lipschitz.delta"):
        section, name = path.split(".")
        if not 0 < config[section][name] < 1:
            _refuse(config, path, "above 0 and below 1")
    if not 0 < config.data.pos_weight < float("inf"):
        _refuse(config, "data.pos_weight", "above 0 and finite")
    path = config.data.path
    is_elsewhere = paths.is_url(path) or path.startswith("sklearn:")
    if path and not is_elsewhere and not pathlib.Path(path).exists():
        _refuse(config, "data.path", "a file or folder that exists")
    for path, allowed in CHOICES.items():
        section, name = path.split(".")
        if config[section][name] not in allowed:
            _refuse(config, path, ", ".join(allowed))
    _check_combinations(config)


def _check_combinations(config: ml_collections.ConfigDict) -> None:
    """Refuse values that have no meaning together."""
    if not 0 <= config.fld.momentum < 1:
        _refuse(config, "fld.momentum", "0 or more and below 1")
    if config.fld.transport_epsilon <= 0:
        _refuse(config, "fld.transport_epsilon", "above 0")
    if config.stage2.batch_size % config.stage2.accumulate:
        allowed = f"a divisor of stage2.batch_size = {config.stage2.batch_size}"
        _refuse(config, "stage2.accumulate", allowed)
    if config.stage2.accumulate > 1 and config.method == "pare":
        _refuse(config, "stage2.accumulate", "1 with method pare, whose loss mixes")
    lipschitz = config.lipschitz
    if lipschitz.method != "none" and not (lipschitz.tau or config.fa.omega):
        raise errors.InputError(
            "lipschitz.tau = 0 stands for fa.omega, which is 0; allowed: one above 0, "
            "or lipschitz.method = none"
        )
    if lipschitz.norm_axis == "tokens" and lipschitz.u_space != "mixed":
        _refuse(config, "lipschitz.norm_axis", "sample, or u_space = mixed with it")
    if config.legacy.batch_count_scale and config.fld.weight > 0:
        if config.fld.kind not in ("entropy", "negative_sets"):  # sums over classes
            allowed = "false, or fld.kind entropy or negative_sets with it"
            _refuse(config, "legacy.batch_count_scale", allowed)
    if config.fld.dense_1d_per_token and config.fld.momentum > 0:
        _refuse(config, "fld.dense_1d_per_token", "false, or fld.momentum = 0 with it")
    if config.fld.dense_1d_per_token and config.fld.kind == "transport":
        _refuse(config, "fld.dense_1d_per_token", "false with fld.kind = transport")


def _refuse(config, path: str, allowed: str) -> None:
    section, name = path.split(".")
    raise errors.InputError(f"{path} = {config[section][name]!r}; allowed: {allowed}")


def _train(config, workdir, task) -> dict[str, Any]:
    # Here, so that help and finished runs answer at once.
    from recraft_jax import build, train

    build.keep_compiled(config)
    return train.run(config, workdir, task)


def _take_config(argv: Sequence[str]) -> tuple[str, list[str]]:
    """Take `--config=FILE...` out of the arguments."""
    specs, rest, given = [], [], list(argv)
    while given:
        arg = given.pop(0)
        if arg in ("--config", "-config") and given:
            specs.append(given.pop(0))
        elif arg.startswith(("--config=", "-config=")):
            specs.append(arg.partition("=")[2])
        else:
            rest.append(arg)
    if len(specs) != 1 or not specs[0]:
        raise errors.InputError(
            f"--config is given {len(specs)} times; allowed: once, for example "
            "--config=configs/pde.py"
        )
    return specs[0], rest


def _load_config(spec: str) -> ml_collections.ConfigDict:
    """Load `FILE[:ARG]` and call its `get_config`."""
    file, _, arg = spec.partition(":")
    path = pathlib.Path(file)
    if path.suffix != ".py" or not path.is_file():
        raise errors.InputError(
            f"--config={spec}: there is no file {file!r}; allowed: a Python file with "
            "get_config, for example configs/pde.py"
        )
    # Config files import their siblings as `configs.*`, from any working directory.
    sys.path.insert(0, str(path.resolve().parent.parent))
    module_spec = importlib.util.spec_from_file_location("recraft_config", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    try:
        return module.get_config(arg)
    except ValueError as error:
        raise errors.InputError(f"--config={spec}: {error}") from None


def _check_field(config, arg: str) -> None:
    """Refuse `--config.a.b` that is not there, naming what is."""
    for dashes in ("--", "-"):
        if arg.startswith(f"{dashes}config."):
            path = arg.removeprefix(f"{dashes}config.").partition("=")[0]
            break
    else:
        return
    at, done = config, ""
    for name in path.split("."):
        if not isinstance(at, ml_collections.ConfigDict) or name not in at:
            allowed = list(at) if isinstance(at, ml_collections.ConfigDict) else []
            near = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise errors.InputError(
                f"unknown field --config.{path}{hint}; allowed in config{done}: "
                f"{', '.join(sorted(allowed)) or 'nothing, it is a value'}"
            )
        at, done = at[name], f"{done}.{name}"


def _identity(settings: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in settings.items() if k not in _NOT_IDENTITY}


def _check_same(settings: dict[str, Any], workdir: paths.Path) -> None:
    """Refuse a workdir that holds another run."""
    path = workdir / "config.json"
    if not path.exists():
        others = sorted(p.name for p in workdir.iterdir() if p.name != ".lock")
        if others:
            raise errors.InputError(
                f"{workdir} holds {others[0]!r} and no config.json; allowed: a new or "
                "empty folder, or the folder of this run"
            )
        return
    try:
        stored = json.loads(path.read_text())
    except ValueError as error:
        raise errors.InputError(f"{path} cannot be read: {error}") from None
    found = tree.differences(_identity(stored), _identity(settings))
    if found:
        raise errors.InputError(
            f"{workdir} holds a run of another config ({'; '.join(found)}); allowed: "
            "the same config, or another --workdir"
        )


def _fail(message: str, code: int, *, is_agreed: bool = False) -> int:
    """Show why a run ends; one process of several takes the others with it."""
    message = " ".join(message.split())
    if hosts.is_several() and not is_agreed:
        hosts.end(message, code)
    if hosts.is_first():
        print(f"error: {message}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
