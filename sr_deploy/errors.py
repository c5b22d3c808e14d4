"""The errors that sr-deploy raises on purpose, as one tree.

    SrDeployError                 exit code
    ├── UsageError                2   an argument is invalid, or the model cannot serve it
    ├── InputError                3   something the user supplied cannot be used
    │   ├── ImageError            3   a picture cannot be read
    │   ├── ModelError            3   a model file cannot be used
    │   └── OutputError           3   an output path cannot be written
    ├── MissingRuntimeError       4   a package, driver or device is missing
    ├── OutOfMemoryError          5   the work does not fit into memory, even in smaller pieces
    └── CheckFailedError          1   the work was done, but the result missed a tolerance or a budget

The command line prints the message on one line and exits with the code above. Any other exception that
reaches the user is a bug.

How to write a message:

- It is one line without a full stop. It says what was asked, what was found, what was expected, and after
  a semicolon what to do: "model x.onnx: no such file; give an .onnx file or one of rt-x2, rt-x4".
- It starts with the file or object it is about, so that it is clear even in the log of a batch.
- Pick the class by who must act: the caller's arguments (UsageError), the user's files (InputError), the
  installation (MissingRuntimeError), the machine's memory (OutOfMemoryError).
- Chain the original exception with `raise ... from error`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence


class SrDeployError(Exception):
    """Base class of all errors raised on purpose.

    Catch this class to handle every expected failure. `exit_code` is the exit code of the command line.
    """

    exit_code = 1


class UsageError(SrDeployError, ValueError):
    """An argument is invalid, alone or combined with others, or the model cannot serve it.

    It is also a ValueError, so code that does not know sr-deploy can catch it.
    """

    exit_code = 2


class InputError(SrDeployError):
    """Something the user supplied (a picture, a model, a path) cannot be used."""

    exit_code = 3


class ImageError(InputError):
    """A picture cannot be read: missing, damaged, truncated, too large, or of an unsupported format."""


class ModelError(InputError):
    """A model file cannot be used: missing, not ONNX, without a spec, or with a spec that is wrong."""


class OutputError(InputError, OSError):
    """An output path cannot be written. It is also an OSError."""


class MissingRuntimeError(SrDeployError):
    """A package, driver or device is missing. The message ends with the install command."""

    exit_code = 4


class OutOfMemoryError(SrDeployError, MemoryError):
    """The work does not fit into memory, even in smaller pieces. It is also a MemoryError."""

    exit_code = 5


class CheckFailedError(SrDeployError):
    """The work was done, but its result missed a tolerance or a budget.

    Exit code 1 tells scripts that sr-deploy worked and the model or the machine is not good enough.
    """

    exit_code = 1


def check_whole(name: str, value: object, least: int = 1) -> None:
    """Raise UsageError unless the argument `name` is a whole number of at least `least`.

    NumPy's integers count as whole numbers. True and False do not, because they come from a mix-up of arguments.
    """
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise UsageError(f"{name} must be a whole number, got {value!r:.60}")
    if value.__index__() < least:
        raise UsageError(f"{name} must be at least {least}, got {value!r:.60}")


def check_path(name: str, value: object) -> None:
    """Raise UsageError unless the argument `name` is a path: a text or an object such as `pathlib.Path`."""
    if isinstance(value, (str, os.PathLike)):
        return
    hint = "decode_image takes the bytes of a file" if isinstance(value, bytes) else "give the name of a file"
    raise UsageError(f"{name} must be a path, got {type(value).__name__}; {hint}")


def check_function(name: str, value: object) -> None:
    """Raise UsageError unless the argument `name` is None or can be called."""
    if value is not None and not callable(value):
        raise UsageError(f"{name} must be a function, such as print, or None, got {value!r:.60}")


def check_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Raise UsageError unless the argument `name` is one of `choices`."""
    if not any(
        value is choice or (isinstance(value, type(choice)) and value == choice) for choice in choices
    ):
        known = ", ".join(map(repr, choices))
        raise UsageError(f"{name} must be one of {known}, got {value!r:.60}")


def one_line(error: BaseException, limit: int = 160) -> str:
    """The message of `error` without line breaks, cut to `limit` characters."""
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 3] + "..."


def describe_error(error: Exception) -> str:
    """An error as one line for a report, with its type unless it is one of sr-deploy's own."""
    text = " ".join(str(error).split())
    if isinstance(error, SrDeployError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
