"""One run on several devices and in several processes, with and without accidents."""

import functools
import json

import accidents
import jax
import numpy as np
import pytest

from recraft_jax import assembly, build, clock, main, program, steps, train
from recraft_jax import mesh as meshes

TOLERANCE = 1e-5  # of losses, relative
# Sinkhorn's last error is what rounding makes of it.
NOT_COMPARED = ("sinkhorn_error",)


def metrics(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def check_same_course(workdir, other):
    """Every logged number of every step is the same to rounding."""
    one, two = metrics(workdir), metrics(other)
    assert len(one) == len(two) > 10
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() - {*NOT_COMPARED, "phase"}:
            np.testing.assert_allclose(
                *(theirs[name], ours[name]), TOLERANCE, err_msg=f"{name} of {ours}"
            )


def samples(log):
    """Batches of a run, each as the sorted names of its samples."""
    return [sorted(json.loads(line)) for line in log.read_text().splitlines()]


ALIGN, EPOCH = 50, 6  # steps of stage 1; of an epoch of stage 2, 8 of 48 samples each


@pytest.fixture(scope="module")
def arguments(smoke):
    return smoke(
        **{
            "log.every_steps": 1,
            "checkpoint.every_steps": 10,
            "stage1.num_steps": ALIGN,
            "stage1.batch_size": 32,
            "stage2.num_epochs": 11,
        }
    )


@pytest.fixture(scope="module")
def one_device(arguments, tmp_path_factory):
    """Run on one device that nothing happens to: its folder and its batches."""
    folder = tmp_path_factory.mktemp("one")
    log = folder / "samples"
    accidents.until_it_ends(arguments, folder / "run", [], log=log)
    return folder / "run", samples(log)


@pytest.fixture(scope="module")
def short(smoke):
    """Fewer steps, for processes: in each they wait for one another several times."""
    return smoke(**{"log.every_steps": 1, "checkpoint.every_steps": 4})


@pytest.fixture(scope="module")
def one_process(short, tmp_path_factory):
    """Run on the two devices of this process."""
    workdir = tmp_path_factory.mktemp("one") / "run"
    assert main.main([*short, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture(scope="module")
def two_processes(short, tmp_path_factory):
    """Run in two processes: its folder, and what each printed."""
    workdir = tmp_path_factory.mktemp("two") / "run"
    codes, said, errors = accidents.Group(short, workdir, processes=2).wait()
    assert codes == [0, 0], errors
    return workdir, said


# ----------------------------------------------------------------------- many devices
@pytest.mark.slow
def test_eight_devices_take_the_course_of_one(arguments, one_device, tmp_path):
    straight, batches = one_device
    workdir, log = tmp_path / "run", tmp_path / "samples"
    accidents.until_it_ends(arguments, workdir, [], devices=8, log=log)
    assert samples(log) == batches
    check_same_course(straight, workdir)
    align = accidents.numbers(straight)["align"]
    for name, value in accidents.numbers(workdir)["align"].items():
        np.testing.assert_allclose(value, align[name], TOLERANCE, err_msg=name)


@pytest.mark.slow
def test_split_weights_and_restarts_on_fewer_devices_change_nothing(
    arguments, one_device, tmp_path
):
    """SIGTERM within an epoch on 8 devices, again on 4, the rest on one."""
    given = [*arguments, "--config.devices.fsdp=true"]
    workdir, log = tmp_path / "run", tmp_path / "samples"
    for devices, accident, code in (
        (8, {0: f"term@{ALIGN + 53}"}, 75),
        (4, {0: "term@4"}, 75),
        (1, {}, 0),
    ):
        group = accidents.Group(
            given, workdir, devices=devices, accidents=accident, log=log
        )
        codes, _, errors = group.wait()
        assert codes == [code], errors
    straight, batches = one_device
    assert samples(log) == batches
    for start in range(ALIGN, len(batches), EPOCH):
        epoch = sum(batches[start : start + EPOCH], [])
        assert len(epoch) == len(set(epoch)) == 48
    check_same_course(straight, workdir)


# --------------------------------------------------------------------- compiled steps
def compiled_steps(arguments, workdir, fsdp):
    """Compile the step of each phase as a run does; yields them with their state."""
    config, _ = main.parse([*arguments, f"--config.devices.fsdp={fsdp}"])
    parts = assembly.make(config, build.target(config), workdir, clock.Clock())
    for index, phase in enumerate(parts.phases):
        begin = functools.partial(parts.begin, index)
        state = jax.eval_shape(begin, parts.params)
        shardings = parts.shardings(state)
        stream = train.make_stream(phase, parts, 0)
        step = steps.make_train_step(
            phase,
            parts.optimisers[index],
            start=0,
            mesh=parts.mesh,
            shardings=shardings,
        )
        place = parts.place(begin(parts.params))
        batch = meshes.put(parts.mesh, stream[0], stream.num_rows)
        yield phase, place, step.lower(place, batch).compile()


@pytest.mark.parametrize("method", ["recraft", "orca"])
def test_compiled_steps_send_what_they_must(method, smoke, tmp_path):
    """Gradients and the loss are added up; Sinkhorn's points are gathered once."""
    given = smoke(f"dense,method={method}", **{"stage1.batch_size": 16})
    for phase, state, step in compiled_steps(given, tmp_path, fsdp=False):
        trained = {
            path: leaf
            for path, leaf in state.params.items()
            if path.startswith("embedder/" if phase.stage == "align" else "")
            and not path.startswith("source/")
        }
        gradients = 4 * sum(leaf.size for leaf in trained.values())
        found = program.work(step)
        assert program.host_instructions(step) == []
        if phase.stage == "fit":
            assert found.count.keys() == {"all-reduce"}
            assert found.size["all-reduce"] == gradients + 4  # and the loss
            continue
        # [16, 16] features, and with FA their weights.
        weights = 4 * 16 if method == "recraft" else 0
        assert found.count.keys() == {"all-reduce", "all-gather"}
        assert found.size["all-gather"] == 4 * 16 * 16 + weights
        # FLD adds up the joint of 3 source and 4 target labels.
        joint = 4 * 3 * 4 if method == "recraft" else 0
        assert gradients <= found.size["all-reduce"] <= gradients + joint + 4


def test_split_weights_take_their_share_of_memory(smoke, tmp_path, monkeypatch):
    monkeypatch.setattr(meshes, "MIN_SPLIT_BYTES", 256)
    *_, (_, _, whole) = compiled_steps(smoke(), tmp_path, fsdp=False)
    *_, (_, state, split) = compiled_steps(smoke(), tmp_path, fsdp=True)
    halves = [x for x in jax.tree.leaves(state) if not x.sharding.is_fully_replicated]
    saved = sum(leaf.nbytes for leaf in halves) // 2
    sizes = [c.memory_analysis().alias_size_in_bytes for c in (whole, split)]
    assert sizes[0] - sizes[1] == saved > 0.4 * sizes[0]
    used = {p: x for p, x in state.params.items() if not p.startswith("source/")}
    gathered = [x for x in used.values() if not x.sharding.is_fully_replicated]
    found = program.work(split)
    assert found.size["all-gather"] == sum(leaf.nbytes for leaf in gathered)


# ------------------------------------------------------------------ several processes
def test_two_processes_are_one_run(one_process, two_processes):
    workdir, said = two_processes
    check_same_course(one_process, workdir)
    assert "best on validation" in said[0]
    # Gloo itself says that it is there.
    assert [s for s in said[1].splitlines() if "Gloo" not in s] == []
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        *(".lock", "checkpoints", "config.json", "metrics.jsonl"),
        *("results.json", "samples.npz", "source.npz", "fields.npz"),
        *("predictor.json", "predictor.safetensors"),
    }


@pytest.mark.slow
def test_four_processes_are_one_run(short, one_process, tmp_path):
    codes, _, errors = accidents.Group(short, tmp_path / "run", processes=4).wait()
    assert codes == [0] * 4, errors
    check_same_course(one_process, tmp_path / "run")


def test_killed_process_ends_the_other_and_a_restart_ends_the_same(
    short, two_processes, tmp_path
):
    workdir = tmp_path / "run"
    accident = {1: "kill@13"}
    group = accidents.Group(short, workdir, processes=2, accidents=accident)
    codes, _, errors = group.wait()
    assert codes == [1, -9]
    assert errors[0].count("error: ") == 1
    assert "lost another process" in errors[0]
    assert "Run the same command again to resume" in errors[0]
    codes, said, errors = accidents.Group(short, workdir, processes=2).wait()
    assert codes == [0, 0], errors
    assert "resuming" in said[0]
    straight, _ = two_processes
    assert accidents.numbers(workdir) == accidents.numbers(straight)


@pytest.mark.slow
def test_error_in_one_process_ends_all_with_its_message(short, tmp_path):
    group = accidents.Group(
        short, tmp_path / "run", processes=2, accidents={1: "fail@3"}
    )
    codes, _, errors = group.wait()
    assert codes == [1, 1]
    assert errors[0].splitlines()[-1] == "error: planned (process 1)"
    assert errors[1].splitlines()[-1] == "error: planned (process 1)"


@pytest.mark.slow
def test_preempted_run_of_two_processes_ends_in_one(short, one_process, tmp_path):
    workdir = tmp_path / "run"
    accident = {1: "term@10"}  # the notice reaches one process only
    group = accidents.Group(short, workdir, processes=2, accidents=accident)
    codes, _, errors = group.wait()
    assert codes == [75, 75], errors
    assert "stopped by SIGTERM at step" in errors[0]
    assert accidents.until_it_ends(short, workdir, []) == [0]
    check_same_course(one_process, workdir)


def test_processes_that_differ_are_refused(arguments, tmp_path):
    port = accidents.free_port()
    groups = []
    for index in range(2):
        place = [
            *("--multihost", f"--coordinator=127.0.0.1:{port}", "--num_processes=2"),
            *(f"--process_id={index}", f"--config.fa.omega={1 + index}"),
        ]
        given = [*arguments, *place]
        groups.append(accidents.Group(given, tmp_path / "run"))
    (one,), _, (error,) = groups[0].wait()
    (two,), _, _ = groups[1].wait()
    assert (one, two) == (2, 2)
    assert "process 1 has another config or workdir than process 0" in error
    assert not (tmp_path / "run").exists()


PLACES = {
    "no multihost": (["--process_id=0"], "allowed: --multihost"),
    "half": (["--multihost", "--num_processes=2"], "without --coordinator, --process"),
    "no number": (["--multihost", "--num_processes=two"], "a whole number"),
    "beyond": (
        ["--multihost", "--coordinator=a:1", "--num_processes=2", "--process_id=2"],
        "allowed: 0 to --num_processes - 1 = 1",
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_bad_places_get_one_line(name, arguments, capsys, tmp_path):
    given, message = PLACES[name]
    assert main.main([*arguments, *given, f"--workdir={tmp_path}/run"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and message in error
    assert not (tmp_path / "run").exists()
