"""Functions that `sr_deploy.c` calls. Models are handles with numbers, and errors are a status with a text.

Each public function returns (status, text, value): a number of `enum sr_status`, one line of UTF-8, and the
function's result. Several threads may call them at once; they share only the table of open handles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Literal, NamedTuple, ParamSpec

from sr_deploy import __version__
from sr_deploy.capi.buffers import Buffer, array_of, check_apart, upscale_buffer
from sr_deploy.capi.device import upscale_on_gpu
from sr_deploy.capi.handles import ClosedError, close_handle, handle_of, open_handle
from sr_deploy.errors import (
    InputError,
    MissingRuntimeError,
    OutOfMemoryError,
    SrDeployError,
    UsageError,
    describe_error,
)
from sr_deploy.upscale import Upscaler

Answer = tuple[int, bytes, Any]
"""Status, text and value of a call. The text is empty and the value valid if the status is OK."""
_P = ParamSpec("_P")

OK, ARGUMENT, MODEL, RUNTIME, MEMORY, CLOSED, INTERNAL = 0, 2, 3, 4, 5, 6, 70
"""Numbers of `enum sr_status` in sr_deploy.h."""
_INT32_MAX = 2**31 - 1
_TILE_NEVER = _OVERLAP_NONE = _HALO_GLOBAL = -1
"""The constants SR_TILE_NEVER, SR_OVERLAP_NONE and SR_HALO_GLOBAL in sr_deploy.h."""


class COptions(NamedTuple):
    """Fields of `sr_options`, in the order in which sr_deploy.c passes them. 0 and None stand for the
    default."""

    backend: str | None = None
    """Name of the backend, as for `--backend`."""
    notify: Callable[[bytes], None] | None = None
    """Function that passes one line of UTF-8 to the program."""
    cuda_stream: int = 0
    """Address of a CUstream for pictures on the GPU."""
    memory: int = 0
    """Bytes of working memory for tiles."""
    threads: int = 0
    """Threads of one call."""
    tile: int = 0
    """Side of a tile in input pixels, or `_TILE_NEVER`."""
    overlap: int = 0
    """Input pixels read around a tile, or `_OVERLAP_NONE`."""

    def open(self, model: str) -> Upscaler:
        """Open an Upscaler for `model` with these options."""
        notify = self.notify
        return Upscaler.open(
            model,
            backend=self.backend or "auto",
            threads=self.threads or None,
            tile=self._tile(),
            overlap=0 if self.overlap == _OVERLAP_NONE else self.overlap or None,
            memory=self.memory or None,
            say=None if notify is None else lambda message: notify(_c_utf8(message)),
        )

    def check(self) -> None:
        """Raise UsageError for a field that is out of range."""
        for name, least in (("threads", 0), ("tile", _TILE_NEVER), ("overlap", _OVERLAP_NONE)):
            if (value := getattr(self, name)) < least:
                raise UsageError(f"options.{name} is {value}, expected {least} or more; 0 is the default")

    def _tile(self) -> int | Literal["auto"] | None:
        """Return the tile option in the form that Upscaler takes."""
        return None if self.tile == _TILE_NEVER else self.tile or "auto"


def _returns_answer(function: Callable[_P, Any]) -> Callable[_P, Answer]:
    """Wrap `function` so that it returns an answer and never raises an Exception."""

    @wraps(function)
    def answer(*arguments: _P.args, **named: _P.kwargs) -> Answer:
        try:
            return OK, b"", function(*arguments, **named)
        except Exception as error:
            return _status(error), _one_line(error), None

    return answer


@_returns_answer
def open_upscaler(library: str, model: str, fields: Sequence[Any]) -> int:
    """Open a model with the fields of `COptions` and return the number of its handle.

    `library` is the version that the C library was built from. Another version is refused, because the two
    pass fields by position.
    """
    if library != __version__:
        raise MissingRuntimeError(
            f"the C library has version {library}, but the sr-deploy it found has {__version__}; build the library "
            "again with `sr-deploy capi build`"
        )
    options = COptions(*fields)
    options.check()
    return open_handle(lambda: options.open(model), options.cuda_stream or None)


@_returns_answer
def query(number: int) -> tuple[int, int, int, int, int, int, bytes, bytes]:
    """Return the fields of `sr_info` in their order. Texts are cut to the size of their arrays."""
    with handle_of(number) as upscaler:
        spec, limits, backend = upscaler.spec, upscaler.engine.limits, upscaler.engine.backend
    halo = _HALO_GLOBAL if spec.halo is None else spec.halo
    largest = (limits.max_width or 0, limits.max_height or 0, limits.max_batch or 0)
    return spec.scale, spec.channels, halo, *largest, _truncated(backend, 32), _truncated(spec.name, 128)


@_returns_answer
def output_size(number: int, width: int, height: int) -> tuple[int, int]:
    """Return width and height of the result for a picture of `width` x `height` pixels."""
    with handle_of(number) as upscaler:
        return _output_size(upscaler, width, height)


@_returns_answer
def upscale(number: int, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
    """Upscale every input into its output, in order. All of them are checked before the first is computed."""
    handle = handle_of(number)
    with handle as upscaler:
        _check_sizes(upscaler, inputs, outputs)
        # A number instead of a memory view is an address on the GPU.
        on_host = [index for index, buffer in enumerate(inputs) if not isinstance(buffer[0], int)]
        sources, targets = ({i: array_of(buffers[i]) for i in on_host} for buffers in (inputs, outputs))
        check_apart(list(sources.values()), list(targets.values()))
        for index, (small, large) in enumerate(zip(inputs, outputs, strict=True)):
            if index in sources:
                upscale_buffer(upscaler, sources[index], targets[index], small[5])
            else:
                upscale_on_gpu(upscaler, small, large, handle.stream)


@_returns_answer
def upscale_frame(number: int, small: Sequence[Any], large: Sequence[Any]) -> None:
    """Upscale a video frame; `small` and `large` have the fields of `frames.CFrame`."""
    with handle_of(number) as upscaler:
        from sr_deploy.capi.frames import CFrame, upscale_video_frame

        source, target = CFrame(*small), CFrame(*large)
        expected = _output_size(upscaler, source.width, source.height)
        if (target.width, target.height) != expected:
            raise UsageError(
                f"the output is {target.width}x{target.height}, for an input of {source.width}x{source.height} expected "
                f"{expected[0]}x{expected[1]}; call sr_output_size"
            )
        upscale_video_frame(upscaler, source, target)


@_returns_answer
def close(number: int) -> None:
    """Close a handle. Calls that other threads have begun with it end normally."""
    close_handle(number)


def _check_sizes(upscaler: Upscaler, inputs: Sequence[Buffer], outputs: Sequence[Buffer]) -> None:
    for index, (small, large) in enumerate(zip(inputs, outputs, strict=True)):
        if large[1:3] != (expected := _output_size(upscaler, *small[1:3])):
            raise UsageError(
                f"output {index} is {large[1]}x{large[2]}, for an input of {small[1]}x{small[2]} expected "
                f"{expected[0]}x{expected[1]}; call sr_output_size"
            )


def _output_size(upscaler: Upscaler, width: int, height: int) -> tuple[int, int]:
    """Return the size of a result. Raises UsageError for an empty picture, or a side that int32_t cannot
    hold."""
    if min(width, height) < 1:
        raise UsageError(f"a picture needs pixels, got {width}x{height}; give its width and height")
    scale = upscaler.spec.scale
    if max(width, height) * scale > _INT32_MAX:
        raise UsageError(
            f"a picture of {width}x{height} times {scale} has a side over {_INT32_MAX} pixels; split it"
        )
    return width * scale, height * scale


def _status(error: Exception) -> int:
    """Return the status of an error. The first matching kind counts, so subclasses come before their bases."""
    kinds: tuple[tuple[type[Exception] | tuple[type[Exception], ...], int], ...] = (
        (ClosedError, CLOSED),
        (UsageError, ARGUMENT),
        (InputError, MODEL),
        ((MissingRuntimeError, ImportError), RUNTIME),
        ((OutOfMemoryError, MemoryError), MEMORY),
        (OSError, MODEL),
    )
    return next((status for kind, status in kinds if isinstance(error, kind)), INTERNAL)


def _one_line(error: Exception) -> bytes:
    """Return an error's text as one line of UTF-8, with its type unless it is one of sr-deploy's own."""
    if isinstance(error, MemoryError) and not isinstance(error, SrDeployError):
        return _c_utf8("out of memory; close other programs, or use a smaller model or picture")
    return _c_utf8(describe_error(error))


def _c_utf8(text: str) -> bytes:
    """Return `text` for C: valid UTF-8 without a zero byte, even for file names that are not valid text."""
    return text.replace("\0", "\\0").encode("utf-8", "backslashreplace")


def _truncated(text: str, size: int) -> bytes:
    """Return `text` for an array of `size` bytes with a final zero, cut between two characters if it is too
    long."""
    return _c_utf8(text)[: size - 1].decode("utf-8", "ignore").encode()


__all__ = ["close", "open_upscaler", "output_size", "query", "upscale", "upscale_frame"]
