"""Everything sr-deploy raises on purpose, as one tree.

    SrDeployError                 exit code
    ├── UsageError                2   an argument that makes no sense, or that the model cannot serve
    ├── InputError                3   something the user handed in cannot be used
    │   ├── ImageError            3   a picture that cannot be read
    │   ├── ModelError            3   a model file that cannot be used
    │   └── OutputError           3   a place that cannot be written
    ├── MissingRuntimeError       4   a package, driver or device that is not there
    ├── OutOfMemoryError          5   the work does not fit, even after it was made smaller
    └── CheckFailedError          1   the work was done, and the result missed its tolerance or budget

Every message says what was asked, what was found, what was expected, and ends in what to do. The command
line prints it as one line and exits with the code above; anything else that escapes is a bug.
"""

from __future__ import annotations


class SrDeployError(Exception):
    """Base of every error sr-deploy raises on purpose; `exit_code` is what the command line ends with."""

    exit_code = 1


class UsageError(SrDeployError, ValueError):
    """An argument, alone or beside the others, that makes no sense or that the model cannot serve."""

    exit_code = 2


class InputError(SrDeployError):
    """Something the user handed in cannot be used."""

    exit_code = 3


class ImageError(InputError):
    """A picture that cannot be read."""


class ModelError(InputError):
    """A model file that cannot be used."""


class OutputError(InputError, OSError):
    """A place that cannot be written."""


class MissingRuntimeError(SrDeployError):
    """A package, driver or device that is not there; the message ends in the install line."""

    exit_code = 4


class OutOfMemoryError(SrDeployError, MemoryError):
    """The work does not fit into memory, even after it was made smaller."""

    exit_code = 5


class CheckFailedError(SrDeployError):
    """The work was done, and its result missed a tolerance or a budget."""

    exit_code = 1
