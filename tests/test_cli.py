"""How the commands end: one line for what the user can mend, a traceback for bugs."""

import errno

import pytest

from recraft_jax import cli, errors


def failing(error):
    def command(argv):
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("x is 3;\nallowed: 4"), 2),
        (errors.RunError("the run is over"), 1),
        (OSError(errno.EROFS, "Read-only file system", "bound.json"), 2),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, code, capsys):
    assert cli.run(failing(error), []) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("bug"), OSError(errno.EBADF, "bug")])
def test_bugs_keep_their_traceback(error):
    with pytest.raises(type(error), match="bug"):
        cli.run(failing(error), [])


def test_unknown_argument_names_the_allowed_ones():
    parser = cli.Parser("name", "What it does.")
    parser.add_argument("--workdir")
    with pytest.raises(errors.InputError, match="allowed: --help, --workdir"):
        parser.parse_args(["--wrokdir=x"])
