"""Runs in several processes that are stopped at chosen places, and started again.

    python tests/accidents.py [--points=20] [--seed=0] [--processes=1]

kills a small two-phase run at random places (SIGTERM; SIGKILL at a step; SIGKILL while
a checkpoint is written), starts it again until it ends, and compares its final numbers
with those of a run that nothing happened to. The tests use the same parts.
"""

import argparse
import hashlib
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
SECONDS = 300  # until a process that does not end is a failure
STEPS = 6 + 18  # of configs/smoke.py


class Group:
    """Processes of one run."""

    def __init__(
        self, arguments, workdir, *, processes=1, devices=1, accidents=(), log=None
    ):
        """Start them.

        Args:
          arguments: of `main`, without a workdir.
          workdir: of the run.
          processes: how many.
          devices: of each process.
          accidents: what happens to which process: `{process: "term@K", ...}`, with
            SIGTERM (`term`), SIGKILL (`kill`) or an error (`fail`) at the K-th batch of
            that process, or SIGKILL at its K-th save (`save`).
          log: file that gets the samples of each batch, a line a batch.
        """
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": str(ROOT),
        }
        place = []
        if processes > 1:
            address = f"--coordinator=127.0.0.1:{free_port()}"
            place = ["--multihost", address, f"--num_processes={processes}"]
        self.processes = []
        for index in range(processes):
            accident = dict(accidents).get(index, "none")
            command = [
                *(sys.executable, str(HERE / "accidents.py"), "--child"),
                *(accident, str(log or os.devnull)),
                *(*arguments[1:], f"--workdir={workdir}", *place),
            ]
            if place:
                command.append(f"--process_id={index}")
            self.processes.append(
                subprocess.Popen(
                    command,
                    env=environment,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )

    def wait(self):
        """Wait for all; returns exit codes, what they printed, and their errors."""
        said = [process.communicate(timeout=SECONDS) for process in self.processes]
        codes = [process.returncode for process in self.processes]
        return codes, [out for out, _ in said], [err for _, err in said]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def child(accident: str, log: str, arguments: list[str]) -> int:
    """Run `main` in this process, with its accident."""
    from recraft_jax import writer

    writer.set_up_logging()  # as in `main`, before Orbax has a handler of its own
    from recraft_jax import checkpoints, errors, main, mesh

    kind, _, number = accident.partition("@")
    mesh.MIN_SPLIT_BYTES = 256  # leaves of the model are small
    put, save = mesh.put, checkpoints.save
    count = {"put": 0, "save": 0}

    def noted_put(devices, batch, rows):
        if "x" in batch and "mask" not in batch:  # of training
            count["put"] += 1
            names = [hashlib.sha256(x.tobytes()).hexdigest()[:12] for x in batch["x"]]
            with pathlib.Path(log).open("a") as file:
                file.write(json.dumps(names) + "\n")
            if count["put"] == int(number or 0) and kind in ("term", "kill"):
                os.kill(os.getpid(), getattr(signal, f"SIG{kind.upper()}"))
            if count["put"] == int(number or 0) and kind == "fail":
                raise errors.RunError("planned")
        return put(devices, batch, rows)

    def noted_save(*args):
        save(*args)
        count["save"] += 1
        if kind == "save" and count["save"] == int(number):
            os.kill(os.getpid(), signal.SIGKILL)  # it is written in the background

    mesh.put, checkpoints.save = noted_put, noted_save
    return main.main(["main", *arguments])


def numbers(workdir: pathlib.Path) -> dict:
    """What a run ended with, without what it took and the commit it was of."""
    results = json.loads((workdir / "results.json").read_text())
    for name in ("seconds", "memory", "git"):
        del results[name]
    return results


def until_it_ends(arguments, workdir, accidents, **settings) -> list[int]:
    """Start a run again and again; returns the exit codes of its first process."""
    codes = []
    for accident in [*accidents, {}]:
        found, _, errors = Group(
            arguments, workdir, accidents=accident, **settings
        ).wait()
        codes.append(found[0])
        if codes[-1] == 0:
            return codes
    raise AssertionError(f"exit codes {codes}: {errors}")


def main(argv) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    given = parser.parse_args(argv)
    sys.path.insert(0, str(HERE))
    import conftest

    draw = random.Random(given.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        arguments = [
            "main",
            f"--config={ROOT}/configs/smoke.py:dense,"
            f"backbone={conftest.write_backbone(folder)}/",
            f"--config.source.path={conftest.write_source_table(folder)}",
            f"--config.assets.cache={folder / 'cache'}",
            "--config.checkpoint.every_steps=2",
        ]
        settings = {"processes": given.processes}
        until_it_ends(arguments, folder / "straight", [], **settings)
        want = numbers(folder / "straight")
        for point in range(given.points):
            kind = draw.choice(("term", "kill", "save"))
            most = STEPS // 2 if kind == "save" else STEPS - 1
            victim = draw.randrange(given.processes)
            accident = {victim: f"{kind}@{draw.randint(1, most)}"}
            workdir = folder / f"run{point}"
            codes = until_it_ends(arguments, workdir, [accident], **settings)
            is_same = numbers(workdir) == want
            failed += not is_same
            print(
                f"{point + 1:>3} {accident}: exit codes {codes}, "
                f"{'same numbers' if is_same else 'OTHER NUMBERS'}",
                flush=True,
            )
    print(f"{given.points - failed} of {given.points} ended with the same numbers")
    return 1 if failed else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        sys.exit(child(*sys.argv[2:4], sys.argv[4:]))
    sys.exit(main(sys.argv[1:]))
