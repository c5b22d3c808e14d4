"""torch's two exporters, each with one request: a net, the axes that stay dynamic, an opset.

The newer exporter (dynamo, on `torch.export`) follows sizes as symbols. The older one (TorchScript) records one run and
keeps those sizes dynamic that were computed by tensors. Neither is better for all nets, so both are tried. Neither is
believed: `trials.py` runs what they give at several sizes.
"""

from __future__ import annotations

import copy
import io
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

import onnx
import torch
from onnx import inliner
from torch import Tensor, nn

from sr_deploy.errors import MissingRuntimeError, one_line
from sr_deploy.graph.onnx_file import PIXELS, UPSCALED

_CHATTY = (
    *("torch.onnx", "onnxscript", "onnx_ir", "torch._dynamo", "torch.export"),
    "torch.fx.experimental.symbolic_shapes",
)
"""Loggers that report the inner steps of an export."""


@dataclass(frozen=True, kw_only=True)
class AxesRequest:
    """Axes of the input that stay dynamic, and the sizes they may have."""

    channels: int
    step: int = 1
    """Height and width are multiples of it."""
    minimum: int = 1
    """Smallest height and width in pixels."""
    fixed: tuple[int, int] | None = None
    """The only (height, width), or None for dynamic ones."""
    batch: bool = True
    """The number of pictures is dynamic; else it is 1."""

    def example(self) -> tuple[int, int, int, int]:
        """Return a shape [N, C, H, W] for the exporter to run or to follow.

        Height and width differ from each other and from 1, so that neither is taken for a constant. They are
        larger than windows and paddings usually are, because some nets branch on that.
        """
        count = 2 if self.batch else 1
        if self.fixed:
            return (count, self.channels, *self.fixed)
        least = max(-(-self.minimum // self.step), -(-40 // self.step), 2)
        return (count, self.channels, least * self.step, (least + 1) * self.step)

    def describe(self) -> str:
        """Return the request in words, for messages."""
        size = (
            f"{self.fixed[1]}x{self.fixed[0]} only"
            if self.fixed
            else ("any size" if self.step == 1 else f"multiples of {self.step}")
        )
        return size if self.batch else f"{size}, one picture a call"


class ExportRefusedError(Exception):
    """An exporter did not export. The message is its reason in one line. Never leaves `anynet`."""


def export_with(exporter: str, net: nn.Module, axes: AxesRequest, opset: int) -> onnx.ModelProto:
    """Export `net` with "dynamo" or "torchscript"; input `pixels`, output `upscaled`.

    Raises ExportRefusedError with the exporter's reason, MissingRuntimeError without onnxscript.
    """
    run = _EXPORTERS[exporter]
    try:
        with quiet(), torch.no_grad():
            # a copy, because some nets keep tensors of a run in attributes, and those of an export are no numbers
            return run(copy.deepcopy(net), axes, opset)
    except ImportError as error:
        raise MissingRuntimeError(
            'exporting needs onnxscript, which is not installed; pip install "sr-deploy[train]"'
        ) from error
    except ExportRefusedError:
        raise
    except Exception as error:  # both exporters raise whatever the net, torch or onnxscript raised
        raise ExportRefusedError(reason_of(error)) from error


def _by_dynamo(net: nn.Module, axes: AxesRequest, opset: int) -> onnx.ModelProto:
    """Export through torch.export."""
    example = torch.rand(axes.example(), generator=torch.Generator().manual_seed(0))
    with _calls_not_recorded(net), _normalize_unchecked():
        program = torch.export.export(
            net,
            (example,),
            dynamic_shapes=(_dynamic_shapes(axes),),
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
    return convert_program(program, opset)


@contextmanager
def _calls_not_recorded(net: nn.Module) -> Iterator[None]:
    """Let modules whose `forward` has a parameter named `mod` run without being recorded as calls.

    torch.export replaces `Module.__call__` by a function whose own first parameter is `mod`, so a call with `mod=...` fails
    with "got multiple values for argument 'mod'" (torch 2.13 and 2.14). What such a module computes is still recorded.
    """
    kinds = {
        type(module)
        for module in net.modules()
        if "mod" in _parameters_of(type(module).forward) and "__call__" not in vars(type(module))
    }
    for kind in kinds:
        kind.__call__ = lambda self, *inputs, **named: self.forward(*inputs, **named)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for kind in kinds:
            del kind.__call__


def convert_program(program: Any, opset: int) -> onnx.ModelProto:
    """Convert a `torch.export` program to ONNX, with our own translations where torch's are wrong."""
    from sr_deploy.training.anynet.translations import translations

    converted = torch.onnx.export(
        program,
        (),
        dynamo=True,
        opset_version=opset,
        input_names=[PIXELS],
        output_names=[UPSCALED],
        custom_translation_table=translations(),
        optimize=False,
        verbose=False,
    )
    assert converted is not None
    model: onnx.ModelProto = converted.model_proto
    return _optimised(inliner.inline_local_functions(model) if model.functions else model)


@contextmanager
def _normalize_unchecked() -> Iterator[None]:
    """Let torchvision's `normalize` leave out its test for a deviation of 0, which torch.export takes for a decision by values.

    Seen with torchvision 0.29 and torch 2.14. Nets call it on their picture, with constants.
    """
    place = sys.modules.get("torchvision.transforms._functional_tensor")
    own = getattr(place, "normalize", None)
    if place is None or own is None:
        yield
        return

    def normalize(tensor: Tensor, mean: list[float], std: list[float], inplace: bool = False) -> Tensor:
        if not all(std):  # torchvision's own error
            result: Tensor = own(tensor, mean, std, inplace)
            return result
        centre, width = (torch.tensor(numbers, dtype=tensor.dtype).view(-1, 1, 1) for numbers in (mean, std))
        return tensor.sub_(centre).div_(width) if inplace else (tensor - centre) / width

    place.normalize = normalize  # type: ignore[attr-defined]
    try:
        yield
    finally:
        place.normalize = own  # type: ignore[attr-defined]


def _parameters_of(function: Any) -> tuple[str, ...]:
    """Return the names of a function's parameters; empty for what is not written in Python."""
    code = getattr(function, "__code__", None)
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount] if code else ()


def _dynamic_shapes(axes: AxesRequest) -> dict[int, Any]:
    """Return torch.export's description of the dynamic axes."""
    shapes: dict[int, Any] = {}
    if axes.batch:
        shapes[0] = torch.export.Dim("n", min=1, max=1 << 16)
    if axes.fixed is None:
        least = max(-(-axes.minimum // axes.step), 1)
        for axis, name in ((2, "h"), (3, "w")):
            dim = torch.export.Dim(name, min=least, max=1 << 16)
            shapes[axis] = axes.step * dim if axes.step > 1 else dim
    return shapes


def _by_torchscript(net: nn.Module, axes: AxesRequest, opset: int) -> onnx.ModelProto:
    """Export by recording one run."""
    example = torch.rand(axes.example(), generator=torch.Generator().manual_seed(0))
    names = {0: "n"} if axes.batch else {}
    if axes.fixed is None:
        names |= {2: "h", 3: "w"}
    buffer = io.BytesIO()
    torch.onnx.export(
        net,
        (example,),
        buffer,  # type: ignore[arg-type]  # torch's own annotation lacks the buffers that it takes
        dynamo=False,
        opset_version=min(opset, 20),  # the newest it knows
        input_names=[PIXELS],
        output_names=[UPSCALED],
        dynamic_axes={PIXELS: names, UPSCALED: names},
    )
    return _optimised(onnx.load_model_from_string(buffer.getvalue()))


def _optimised(model: onnx.ModelProto) -> onnx.ModelProto:
    """Fold constants and drop what is unused, by ONNX Runtime's basic level, which keeps to standard operators.

    Both exporters' graphs pass through it, so that their numbers of nodes compare fairly. onnxscript's own optimiser
    takes 20 times as long on the graphs of window attention.
    """
    import onnxruntime  # type: ignore[import-untyped, unused-ignore]

    with tempfile.TemporaryDirectory(prefix="sr-deploy-export-") as folder:
        target = os.path.join(folder, "model.onnx")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = target
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        optimised = onnx.load(target)
    for entry in [entry for entry in optimised.opset_import if entry.domain not in ("", "ai.onnx")]:
        if not any(node.domain == entry.domain for node in optimised.graph.node):
            optimised.opset_import.remove(entry)
    return optimised


_EXPORTERS: dict[str, Callable[[nn.Module, AxesRequest, int], onnx.ModelProto]] = {
    "dynamo": _by_dynamo,
    "torchscript": _by_torchscript,
}
EXPORTERS: Sequence[str] = tuple(_EXPORTERS)
"""Names of the exporters, the preferred one first."""


def reason_of(error: BaseException) -> str:
    """Return why an export failed, in one line: the cause at the bottom of torch's chain of errors."""
    while (inner := error.__cause__ or error.__context__) is not None and str(inner).strip():
        error = inner
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = one_line(Exception(lines[0] if lines else ""), 200)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silence torch's exporters, which warn of deprecated calls, print progress and log conversion details."""
    levels = {name: logging.getLogger(name).level for name in _CHATTY}
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _nothing_printed():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """Send what this process prints to nowhere.

    The file descriptors themselves are replaced, because TorchScript prints graphs from C++, past Python's streams.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in (1, 2)]
    nothing = os.open(os.devnull, os.O_WRONLY)
    try:
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            for number in (1, 2):
                os.dup2(nothing, number)
            yield
    finally:
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        os.close(nothing)


def first_tensor(result: Any) -> Tensor | None:
    """Return a net's result if it is one tensor, or the only tensor of a tuple; else None."""
    if isinstance(result, Tensor):
        return result
    if isinstance(result, tuple | list) and len(result) == 1 and isinstance(result[0], Tensor):
        return result[0]
    return None
