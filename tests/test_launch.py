"""The shell scripts of `launch/`, around programs that only write down their arguments.

Commands are run as the scripts run them and as `--dry-run` prints them; what crosses
ssh or goes into a pod is run once more over there.
"""

import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]
EVIL = 'it\'s "q" $(touch pwned); `touch pwned` $$ $(HOME) * ~ \\ & | é'
ARGS = ["--config=configs/pde.py:darcy16,seed=1", EVIL, "", f"two\nlines\t{EVIL}"]
TOOLS = (
    "bash awk cat cksum cp dirname env find flock git grep gzip ls mkdir nohup rm seq "
    "setsid sh sleep tail tar touch true wc"
).split()

# Stands for every program: writes down how it was called, does what is needed of it.
FAKE = f"""#!{sys.executable} -IS
import json, os, pathlib, shutil, signal, subprocess, sys, time

name, args = pathlib.Path(sys.argv[0]).name, sys.argv[1:]
if args[:1] == ["-c"]:
    sys.exit("OLD_PYTHON" in os.environ)
line = json.dumps({{"args": [name, *args], "pid": os.getpid(), "cwd": os.getcwd(),
                   "devices": os.environ.get("JAX_LOCAL_DEVICE_IDS")}})
with open(os.environ["RECORD"], "a") as file:
    file.write(line + "\\n")
if args[:2] == ["-m", "venv"] or name == "uv":
    made = pathlib.Path(args[-1], "bin")
    made.mkdir(parents=True, exist_ok=True)
    shutil.copy(sys.argv[0], made / "python")
elif args[:2] == ["-m", "pip"]:
    time.sleep(float(os.environ.get("PIP_SECONDS", 0)))
    sys.exit("PIP_FAILS" in os.environ)
elif name == "srun":
    sys.exit(subprocess.run(args[args.index("bash"):]).returncode)
elif name == "gcloud":
    given = [a.partition("=")[2] for a in args if a.startswith("--worker=")]
    homes = sorted(pathlib.Path(os.environ["WORKERS"]).iterdir()) if given else []
    codes = []
    for home in homes if given != ["0"] else homes[:1]:
        if args[3] == "scp":
            shutil.copy(args[4], home / args[5].partition(":")[2])
        else:
            sent, = [a.partition("=")[2] for a in args if a.startswith("--command=")]
            environment = os.environ | {{"HOME": str(home)}}
            done = subprocess.run(["bash", "-c", sent], cwd=home, env=environment)
            codes.append(done.returncode)
    sys.exit(max(codes, default=0))
elif "--wait" in args:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print("waiting", flush=True)
    time.sleep(20)
elif "--until" in args:
    print("waiting", flush=True)
    while not os.path.exists(args[-1]):
        time.sleep(0.01)
    sys.exit(75)
else:
    sys.exit(int(os.environ.get("EXIT", 0)))
"""


class Place:
    """A copy of the project with nothing on its PATH but tools and fakes."""

    def __init__(self, folder):
        self.folder = folder
        self.project = folder / "a project"
        self.record = folder / "record"
        self.workers = [folder / "workers" / name for name in ("w0", "w1")]
        fakes, tools = folder / "fakes", folder / "tools"
        for path in (fakes, tools, self.project, *self.workers):
            path.mkdir(parents=True)
        shutil.copytree(ROOT / "launch", self.project / "launch")
        (self.project / "setup.py").write_text("# first\n")
        (fakes / "python3").write_text(FAKE)
        (fakes / "python3").chmod(0o755)
        for name in ("gcloud", "xpk", "srun", "scontrol"):
            (fakes / name).symlink_to("python3")
        for name in TOOLS:
            if shutil.which(name):
                (tools / name).symlink_to(shutil.which(name))
        self.env = {
            "PATH": f"{fakes}:{tools}",
            "HOME": str(folder),
            "RECORD": str(self.record),
            "WORKERS": str(folder / "workers"),
            **{f"GIT_{who}_NAME": "n" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "e" for who in ("AUTHOR", "COMMITTER")},
        }

    def bash(self, *args, check=True, **env):
        """Run bash in the project."""
        done = subprocess.run(
            ["bash", *map(str, args)],
            cwd=self.project,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def start(self, *args, **env):
        """Start bash there; returns once the program waits."""
        process = subprocess.Popen(
            ["bash", *map(str, args)],
            cwd=self.project,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert process.stdout.readline() == "waiting\n"
        return process

    def calls(self):
        """What was called since the last time, in full."""
        if not self.record.exists():
            return []
        found = [json.loads(line) for line in self.record.read_text().splitlines()]
        self.record.unlink()
        return found

    def called(self):
        return [call["args"] for call in self.calls()]

    def commit(self):
        for args in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
            subprocess.run(["git", *args], cwd=self.project, env=self.env, check=True)


@pytest.fixture
def place(tmp_path):
    yield Place(tmp_path)
    assert not list(tmp_path.rglob("pwned"))


def dry_and_real(place, *args, **env):
    """What a script calls, after having proved that its dry run prints the same."""
    at = args.index("--") if "--" in args else len(args)
    printed = place.bash(*args[:at], "--dry-run", *args[at:], **env).stdout
    assert place.called() == []
    place.bash("-c", printed, **env)
    pasted = place.called()
    place.bash(*args, **env)
    called = place.called()
    assert pasted == called
    return called


def wait_for(path, text):
    """Wait until a file says something."""
    end = time.monotonic() + 20
    while not (path.exists() and text in path.read_text()):
        assert time.monotonic() < end, path.read_text()
        time.sleep(0.01)


# ---------------------------------------------------------------------------- bad input
TPU = ["launch/tpu.sh", "run", "--name=n", "--zone=z"]
XPK = ["launch/xpk.sh", "--cluster=c", "--workload=w", "--tpu-type=t"]
BAD = {
    "local: unknown option": (
        ["launch/local.sh", "--config=x"],
        "--config=x; allowed: ",
    ),
    "local: unknown extra": (
        ["launch/local.sh", "--extra=gpu"],
        "--extra=gpu; allowed: tpu",
    ),
    "local: no value": (
        ["launch/local.sh", "--venv="],
        "option --venv=; allowed: --extra",
    ),
    "tpu: no action": (
        ["launch/tpu.sh"],
        "unknown action ; allowed: create, sync, run",
    ),
    "tpu: unknown action": (
        ["launch/tpu.sh", "halt"],
        "unknown action halt; allowed: ",
    ),
    "tpu: no name": (["launch/tpu.sh", "delete", "--zone=z"], "--name is missing"),
    "tpu: no zone": (["launch/tpu.sh", "create", "--name=n"], "--zone is missing"),
    "tpu: a name that is an option": (
        ["launch/tpu.sh", "delete", "--zone=z", "--name=--quiet"],
        "--name=--quiet; allowed: lower-case letters",
    ),
    "tpu: option of another action": (
        ["launch/tpu.sh", "delete", "--spot"],
        "unknown option --spot of delete; allowed: --name=N",
    ),
    "tpu: unknown generation": (
        ["launch/tpu.sh", "create", "--name=n", "--zone=z", "--type=v9-8"],
        "--type=v9-8; allowed: v2-, v3-, v4-, v5litepod-, v5p- or v6e-",
    ),
    "tpu: no worker": (
        ["launch/tpu.sh", "logs", "--name=n", "--zone=z", "--worker=all"],
        "--worker=all; allowed: a whole number",
    ),
    "tpu: nothing to run": (TPU, "run without arguments; allowed: -- --config="),
    "tpu: argument before --": (
        [*TPU, "two\nlines"],
        "unknown option two lines of run",
    ),
    "worker: unknown action": (["launch/worker.sh"], "unknown action ; allowed: start"),
    "slurm: no arguments": (
        ["launch/slurm.sbatch", "--dry-run"],
        "no arguments; allowed",
    ),
    "slurm: no job": (["launch/slurm.sbatch", "--config=x"], "this is no SLURM job"),
    "xpk: no cluster": (["launch/xpk.sh"], "--cluster is missing; allowed: --cluster="),
    "xpk: no type": (XPK[:3], "--tpu-type is missing; allowed: --tpu-type=T"),
    "xpk: no slice": (
        [*XPK, "--num-slices=0"],
        "--num-slices=0; allowed: a whole number",
    ),
    "xpk: nothing to run": (XPK, "no arguments; allowed: -- --config="),
    "xpk: unknown option": (
        [*XPK, "--spot"],
        "unknown option --spot; allowed: --cluster",
    ),
}


@pytest.mark.parametrize(("args", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_line(place, args, message):
    done = place.bash(*args, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert message in done.stderr and "; allowed: " in done.stderr
    assert place.called() == []


@pytest.mark.parametrize("name", ["local.sh", "tpu.sh", "worker.sh", "xpk.sh"])
def test_help_is_the_comment_on_top(place, name):
    out = place.bash(f"launch/{name}", "--help").stdout
    assert f"bash launch/{name}" in out and "#" not in out and "set -" not in out


def test_help_of_slurm_ends_before_its_options(place):
    out = place.bash("launch/slurm.sbatch", "--help").stdout
    assert "launch/slurm.sbatch [--extra" in out and "SBATCH" not in out


# -------------------------------------------------------------------------------- local
def test_local_installs_once_and_passes_arguments(place):
    place.bash("launch/local.sh", "--", "x")
    assert place.called()[-1] == ["python", "-m", "recraft_jax.main", "x"]
    called = dry_and_real(place, "launch/local.sh", "--", *ARGS)
    assert called == [["python", "-m", "recraft_jax.main", *ARGS]]


def test_local_prints_and_calls_all_steps(place):
    args = ("launch/local.sh", "--extra=tpu", "--venv=my env", "--module=m", "--", "x")
    printed = place.bash(*args[:-2], "--dry-run", *args[-2:]).stdout
    assert not (place.project / "my env").exists() and place.called() == []
    place.bash(*args)
    venv = place.project / "my env"
    expected = [
        ["python3", "-m", "venv", f"{venv}"],
        ["python", "-m", "pip", "install", "--quiet", "-e", f"{place.project}[tpu]"],
        ["python", "-m", "m", "x"],
    ]
    assert place.called() == expected
    steps = [shlex.split(line) for line in printed.splitlines()]
    assert [[pathlib.Path(s[0]).name, *s[1:]] for s in steps] == expected


def test_local_runs_where_it_is_called_and_keeps_stdout_for_the_program(place):
    done = place.bash("-c", "cd launch && bash local.sh -- --config=x")
    call = place.calls()[-1]
    assert call["cwd"] == f"{place.project}/launch" and done.stdout == ""
    assert "installing into" in done.stderr


@pytest.mark.parametrize("killed", ["before pip", "in pip"])
def test_half_made_environment_is_made_again(place, killed):
    venv = place.project / ".venv"
    if killed == "in pip":
        assert place.bash("launch/local.sh", check=False, PIP_FAILS="1").returncode == 1
    else:
        venv.mkdir()
        (venv / "recraft_jax.lock").touch()
    (venv / "broken").mkdir()
    (venv / "broken" / "file").touch()
    place.called()
    place.bash("launch/local.sh", "--", "x")
    steps = [call[1:3] for call in place.called()]
    assert steps == [["-m", "venv"], ["-m", "pip"], ["-m", "recraft_jax.main"]]
    assert not (venv / "broken").exists()


def test_folder_of_others_is_left_alone(place):
    mine = place.folder / "mine"
    mine.mkdir()
    (mine / "pyvenv.cfg").touch()
    for option in ([], ["--dry-run"]):
        done = place.bash("launch/local.sh", f"--venv={mine}", *option, check=False)
        assert done.returncode == 2 and "was not made by this script" in done.stderr
    assert [path.name for path in mine.iterdir()] == ["pyvenv.cfg"]


def test_environment_follows_extras_and_setup(place):
    def pips(*options):
        place.bash("launch/local.sh", *options, "--install-only")
        called = place.called()
        assert not any("recraft_jax.main" in call for call in called)
        return [call[-1].removeprefix(str(place.project)) for call in called]

    venv = "/.venv"
    assert pips("--extra=cuda") == [venv, "[cuda]"]
    assert pips() == [] and pips("--extra=cuda") == []
    assert pips("--extra=tpu") == ["[tpu]"] and pips("--extra=cuda") == []
    (place.project / "setup.py").write_text("# second\n")
    assert pips() == [""] and pips("--extra=cuda") == ["[cuda]"]


def test_old_python_is_replaced_by_one_of_uv(place):
    done = place.bash("launch/local.sh", check=False, OLD_PYTHON="1")
    assert done.returncode == 2 and "no Python 3.11 or newer on the PATH" in done.stderr
    (place.folder / "fakes" / "uv").symlink_to("python3")
    place.bash("launch/local.sh", OLD_PYTHON="1")
    assert place.called()[0][:2] == ["uv", "venv"]


@pytest.mark.skipif(not shutil.which("flock"), reason="needs flock")
def test_runs_that_start_together_install_once(place):
    line = "for i in 1 2 3; do bash launch/local.sh -- $i & done; wait"
    done = place.bash("-c", line, PIP_SECONDS="0.1")
    assert "error" not in done.stderr
    called = place.called()
    assert sum(call[1:3] == ["-m", "pip"] for call in called) == 1
    assert sorted(call[-1] for call in called[-3:]) == ["1", "2", "3"]


def test_sigterm_reaches_the_program(place):
    process = place.start("launch/local.sh", "--", "--wait")
    assert place.calls()[-1]["pid"] == process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 75


# ---------------------------------------------------------------------------------- TPU
@pytest.mark.parametrize(
    ("kind", "version"),
    [
        ("v3-8", "tpu-ubuntu2204-base"),
        ("v4-32", "tpu-ubuntu2204-base"),
        ("v5litepod-8", "v2-alpha-tpuv5-lite"),
        ("v5p-16", "v2-alpha-tpuv5"),
        ("v6e-8", "v2-alpha-tpuv6e"),
    ],
)
def test_tpu_create_knows_the_runtime(place, kind, version):
    args = ["launch/tpu.sh", "create", "--name=n", "--zone=z", f"--type={kind}"]
    place.bash(*args, "--spot", "--project=p")
    expected = f"""gcloud compute tpus tpu-vm create n --accelerator-type={kind}
        --version={version} --spot --zone=z --project=p"""
    assert place.called() == [expected.split()]
    place.bash(*args, "--version=other")
    assert "--version=other" in place.called()[0]


def test_tpu_type_is_v5e_by_default_and_anything_with_its_version(place):
    create = ("launch/tpu.sh", "create", "--name=n", "--zone=z")
    (call,) = dry_and_real(place, *create)
    assert call[6:8] == [
        "--accelerator-type=v5litepod-8",
        "--version=v2-alpha-tpuv5-lite",
    ]
    (call,) = dry_and_real(place, *create, "--type=v9-8", "--version=new")
    assert call[6:8] == ["--accelerator-type=v9-8", "--version=new"]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (
            "stop",
            "ssh n --worker=all '--command=bash recraft_jax/launch/worker.sh stop'",
        ),
        ("logs", "ssh n --worker=0 '--command=tail -n 100 -F recraft_jax/run.log'"),
        ("delete", "delete n --quiet"),
    ],
)
def test_tpu_prints(place, action, expected):
    out = place.bash(
        "launch/tpu.sh", action, "--name=n", "--zone=z", "--dry-run"
    ).stdout
    assert out == f"gcloud compute tpus tpu-vm {expected} --zone=z\n"
    assert place.called() == []


def test_tpu_runs_on_every_worker(place):
    """Sync, run, stop, run again: through a gcloud that is a shell in two homes."""
    place.commit()
    (place.project / "new").touch()
    where = ("--name=n", "--zone=z")
    homes = [worker / "recraft_jax" for worker in place.workers]
    (homes[0] / "launch").mkdir(parents=True)
    (homes[0] / "launch" / "old.py").touch()
    (homes[0] / "runs").mkdir()
    done = place.bash("launch/tpu.sh", "sync", *where)
    assert "files that are not: 1" in done.stderr
    for home in homes:
        assert (home / "setup.py").exists() and not (home / "new").exists()
    assert (
        not (homes[0] / "launch" / "old.py").exists() and (homes[0] / "runs").exists()
    )
    place.called()

    place.bash("launch/tpu.sh", "run", *where, "--", *ARGS, "--wait")
    for home in homes:
        wait_for(home / "run.log", "waiting")
    calls = [call for call in place.calls() if "recraft_jax.main" in call["args"]]
    program = ["python", "-m", "recraft_jax.main", "--multihost", *ARGS, "--wait"]
    assert [call["args"] for call in calls] == [program] * 2
    assert {call["cwd"] for call in calls} == set(map(str, homes))
    again = place.bash("launch/tpu.sh", "run", *where, "--", "x", check=False)
    assert again.returncode == 2 and "a run is going on" in again.stderr

    place.bash("launch/tpu.sh", "stop", *where)
    for home in homes:
        wait_for(home / "run.log", "exit code 75\n")
        assert (home / "run.exit").read_text() == "75\n"


def test_worker_runs_again_and_stops_nothing(place):
    for code in ("3", "0"):
        place.bash("launch/worker.sh", "start", "--", "x", EXIT=code)
        wait_for(place.project / "run.exit", f"{code}\n")
        # Returns when the run has let go of its lock.
        place.bash("-c", "flock run.lock true")
    assert "nothing is running" in place.bash("launch/worker.sh", "stop").stdout


def test_tpu_run_prints_what_it_does(place):
    printed = place.bash(*TPU, "--dry-run", "--", *ARGS).stdout
    (call,) = [shlex.split(line) for line in printed.splitlines()]
    assert call[:7] == "gcloud compute tpus tpu-vm ssh n --worker=all".split()
    sent = call[7].removeprefix("--command=")
    place.bash("-c", f"set -- {sent}; printf '%s\\0' \"$@\" >words")
    words = (place.project / "words").read_text().split("\0")[:-1]
    start = "bash recraft_jax/launch/worker.sh start --extra=tpu -- --multihost"
    assert words == [*start.split(), *ARGS] and "\n" not in sent


def test_worker_gets_uv_where_python_is_old(place):
    place.bash("launch/worker.sh", "start", "--", "x", OLD_PYTHON="1")
    wait_for(place.project / "run.exit", "2\n")
    assert place.called() == [["python3", *"-m pip install --user --quiet uv".split()]]
    assert "no Python 3.11 or newer" in (place.project / "run.log").read_text()


# -------------------------------------------------------------------------------- SLURM
@pytest.fixture
def job(place):
    """SLURM's copy of the script, and its variables."""
    spool = place.folder / "spool"
    spool.mkdir()
    shutil.copy(ROOT / "launch" / "slurm.sbatch", spool / "script")
    variables = {
        "SLURM_SUBMIT_DIR": str(place.project),
        "SLURM_JOB_ID": "7",
        "SLURM_GPUS_ON_NODE": "3",
        "SLURM_CPUS_PER_TASK": "8",
    }
    return spool / "script", variables


def test_slurm_installs_once_then_runs_on_the_nodes(place, job):
    script, variables = job
    place.bash(script, "--venv=env", *ARGS, **variables)
    calls = place.calls()
    step = "srun --ntasks-per-node=1 --kill-on-bad-exit=0 --cpus-per-task=8".split()
    local = "bash launch/local.sh --extra=cuda --venv=env -- --multihost".split()
    program = ["python", "-m", "recraft_jax.main", "--multihost", *ARGS]
    assert [call["args"] for call in calls[2:]] == [[*step, *local, *ARGS], program]
    assert [call["args"][1:3] for call in calls[:2]] == [["-m", "venv"], ["-m", "pip"]]
    assert calls[-1]["devices"] == "0,1,2"


def test_slurm_prints_what_it_does(place):
    printed = place.bash("launch/slurm.sbatch", "--dry-run", *ARGS).stdout
    assert place.called() == []
    assert "bash launch/local.sh --install-only\nsrun " in printed
    place.bash("-c", printed, check=False, EXIT="75", SLURM_JOB_ID="7")
    called = place.called()
    assert called[-2] == ["python", "-m", "recraft_jax.main", "--multihost", *ARGS]
    assert called[-1] == ["scontrol", "requeue", "7"]


@pytest.mark.parametrize("code", [0, 1, 75])
def test_slurm_queues_again_what_was_saved(place, job, code):
    script, variables = job
    done = place.bash(script, "x", check=False, EXIT=str(code), **variables)
    assert done.returncode == code
    is_queued = ["scontrol", "requeue", "7"] in place.called()
    assert is_queued == (code == 75)


def test_slurm_leaves_a_cancelled_job_alone(place, job):
    script, variables = job
    go = place.folder / "go"
    process = place.start(script, "--until", go, **variables)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.05)
    assert process.poll() is None  # the program is given the time to save
    go.touch()
    assert process.wait(20) == 75
    assert not any("scontrol" in call for call in place.called())


def test_slurm_signals_the_steps():
    text = (ROOT / "launch" / "slurm.sbatch").read_text()
    options = re.findall(r"^#SBATCH (.*)$", text, re.MULTILINE)
    assert "--signal=TERM@120" in options and "--requeue" in options
    assert text.index("#SBATCH") < text.index(
        "set -euo"
    )  # read up to the first command


# ---------------------------------------------------------------------------------- xpk
def in_a_pod(command, variables):
    """What Kubernetes makes of a command, and the shell code xpk puts around it."""
    assert "\n" not in command and "\r" not in command  # it is one line of YAML

    def expand(found):
        return "$" if found[0] == "$$" else variables.get(found[1], found[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", expand, f"({command}) & wait $!")


@pytest.mark.parametrize("image", ["", "gcr.io/p/i:1"])
def test_xpk_makes_a_workload(place, image):
    place.commit()
    (place.project / "new").touch()
    options = ["--zone=z", "--project=p", "--num-slices=2"]
    if image:
        options.append(f"--image={image}")
    (call,) = dry_and_real(place, *XPK, *options, "--", *ARGS)
    assert call[:7] == [
        *("xpk", "workload", "create", "--cluster=c", "--workload=w"),
        *("--tpu-type=t", "--num-slices=2"),
    ]
    assert {"--zone=z", "--project=p", "--restart-on-exit-codes=75"} < set(call)
    folder = place.project / "build" / "xpk-w"
    if image:
        assert f"--docker-image={image}" in call and not folder.exists()
    else:
        assert "--script-dir=build/xpk-w" in call
        assert sorted(path.name for path in folder.iterdir()) == ["launch", "setup.py"]
    sent = call[-1].removeprefix("--command=")
    place.bash("-c", in_a_pod(sent, {"HOME": "/root"}))
    program = ["python", "-m", "recraft_jax.main", "--multihost", *ARGS]
    assert place.called()[-1] == program


# ------------------------------------------------------------------------- as they are
def test_scripts_run_on_the_bash_of_macos():
    """Version 3.2: none of what came later that is easily written by habit."""
    later = r"mapfile|readarray|declare -A|local -n|@Q|\$\{\w+(,,|\^\^)|&>>|\|&"
    for path in [*(ROOT / "launch").glob("*.sh"), ROOT / "launch" / "slurm.sbatch"]:
        assert not re.search(later, path.read_text()), path
        assert subprocess.run(["bash", "-n", path]).returncode == 0
        assert "set -euo pipefail" in path.read_text() or path.name == "common.sh"


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck")
def test_shellcheck_has_no_complaint():
    paths = sorted((ROOT / "launch").glob("*.sh")) + [ROOT / "launch" / "slurm.sbatch"]
    done = subprocess.run(
        ["shellcheck", "-x", "-P", str(ROOT), *paths],
        capture_output=True,
        text=True,
        env=os.environ,
    )
    assert done.returncode == 0, done.stdout
