"""The ways a run ends early without a bug.

`main` prints each as one line. Everything else that is raised is a bug and keeps its
traceback.
"""

import errno

# Files and folders that cannot be used are the environment's doing, not a bug.
ENVIRONMENT = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EEXIST,
    errno.EFBIG,
    errno.EISDIR,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


class InputError(ValueError):
    """What the user gave cannot be used: says what is wrong, where, what is allowed."""

    exit_code = 2


class RunError(RuntimeError):
    """The run itself cannot go on (a loss that is not finite, for example)."""

    exit_code = 1


class Preempted(RuntimeError):
    """The machine is taken away; what was done is saved, the same command goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits: try again
