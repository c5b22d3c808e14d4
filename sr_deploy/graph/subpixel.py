"""Take a convolution through the PixelShuffle before it: computed on the small picture, shuffled afterwards.

A net that ends in PixelShuffle and a last convolution to three channels shuffles all its features at full size, only
to throw most of them away: at x4, more memory traffic than any of its convolutions. The same three channels come out
of one convolution of the unshuffled features to `3 * block**2` channels, whose result, a twentieth in size, is then
shuffled. The kernel is the old one laid out over the phases of the shuffle, mostly zeros; matrix units pad three
channels to as many anyway. Sums are the same sums, in another order.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from sr_deploy.graph.onnx_file import copy_of

_PHASES = "/phases"
_MOST_CHANNELS = 64
"""Channels of the new convolution; beyond, its zeros cost more than the shuffle did."""


def convolve_before_shuffle(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of `model` in which every DepthToSpace that only feeds a narrow convolution comes after it."""
    copied = copy_of(model)
    for shuffle in [node for node in copied.graph.node if node.op_type == "DepthToSpace"]:
        convolution = _only_reader(copied.graph, shuffle.output[0])
        if convolution is not None:
            _swap(copied.graph, shuffle, convolution)
    _drop_unused(copied.graph)
    return copied


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove kernels that were laid out anew and are read no more; others may be read inside of nodes."""
    read = {name for node in graph.node for name in node.input}
    laid_out = {
        tensor.name.removesuffix(_PHASES) for tensor in graph.initializer if tensor.name.endswith(_PHASES)
    }
    for entries in (graph.initializer, graph.input):  # old files name their weights among the inputs too
        for entry in [e for e in entries if e.name in laid_out - read]:
            entries.remove(entry)


def _only_reader(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """The convolution that alone reads `name`; None for anything else."""
    readers = [node for node in graph.node if name in node.input]
    if len(readers) != 1 or any(port.name == name for port in graph.output):
        return None
    node = readers[0]
    return (
        node if node.op_type == "Conv" and node.domain in ("", "ai.onnx") and node.input[0] == name else None
    )


def _swap(graph: onnx.GraphProto, shuffle: onnx.NodeProto, convolution: onnx.NodeProto) -> None:
    """Do it, where the convolution is a plain one whose weights are known; nothing otherwise."""
    settings = {a.name: helper.get_attribute_value(a) for a in shuffle.attribute}
    block, pixel_last = int(settings["blocksize"]), settings.get("mode", b"DCR") == b"DCR"
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    if not all(name in tensors for name in convolution.input[1:] if name):
        return
    kernel = numpy_helper.to_array(tensors[convolution.input[1]])
    if not _keeps_size(convolution, kernel) or kernel.shape[0] * block**2 > _MOST_CHANNELS:
        return
    wide = kernel_before_shuffle(kernel, block, pixel_last=pixel_last)
    names = [_store(graph, convolution.input[1] + _PHASES, wide)]
    if len(convolution.input) > 2 and convolution.input[2]:
        bias = numpy_helper.to_array(tensors[convolution.input[2]])
        names.append(_store(graph, convolution.input[2] + _PHASES, np.repeat(bias, block**2)))
    _rewire(graph, shuffle, convolution, names, wide.shape[2], block)


def _keeps_size(node: onnx.NodeProto, kernel: npt.NDArray[Any]) -> bool:
    """Whether `node` is an odd square convolution that keeps the size: no strides, gaps or groups."""
    side = kernel.shape[2]
    settings = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return (
        kernel.ndim == 4
        and kernel.shape[2:] == (side, side)
        and side % 2 == 1
        and settings.get("group", 1) == 1
        and list(settings.get("strides", [1, 1])) == [1, 1]
        and list(settings.get("dilations", [1, 1])) == [1, 1]
        and list(settings.get("pads", [0] * 4)) == [side // 2] * 4
        and settings.get("auto_pad", b"NOTSET") == b"NOTSET"
    )


def kernel_before_shuffle(kernel: npt.NDArray[Any], block: int, *, pixel_last: bool) -> npt.NDArray[Any]:
    """The kernel [O, C, k, k] of a convolution after a shuffle as one before it, [O * block**2, C * block**2, K, K].

    Row `y` of the large picture is row `y % block` within row `y // block` of the small one, so the tap `d` of the
    output phase `i` reads phase `(i + d) % block` of the row `(i + d) // block` further. Output channels are ordered
    (O, row, column); input channels as DepthToSpace has them, (C, row, column), or (row, column, C): `pixel_last`.
    """
    outputs, inputs, side, _ = kernel.shape
    halo = -(-(side // 2) // block)
    wide = np.zeros((outputs, block, block, inputs, block, block, 2 * halo + 1, 2 * halo + 1), kernel.dtype)
    steps = [(i, d, *divmod(i + d - side // 2, block)) for i in range(block) for d in range(side)]
    for row, down, row_away, row_phase in steps:
        for column, across, column_away, column_phase in steps:
            taps = kernel[:, :, down, across]
            wide[:, row, column, :, row_phase, column_phase, row_away + halo, column_away + halo] = taps
    if pixel_last:
        wide = wide.transpose(0, 1, 2, 4, 5, 3, 6, 7)
    return wide.reshape(outputs * block**2, inputs * block**2, 2 * halo + 1, 2 * halo + 1)


def _store(graph: onnx.GraphProto, name: str, values: npt.NDArray[Any]) -> str:
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return name


def _rewire(
    graph: onnx.GraphProto,
    shuffle: onnx.NodeProto,
    convolution: onnx.NodeProto,
    weights: list[str],
    side: int,
    block: int,
) -> None:
    """The convolution first, then the shuffle; what came out of the one now comes out of the other."""
    between, result = f"{shuffle.output[0]}/unshuffled", convolution.output[0]
    halo = side // 2
    first = helper.make_node(
        "Conv", [shuffle.input[0], *weights], [between], name=f"{convolution.name}_before",
        kernel_shape=[side, side], pads=[halo] * 4,
    )  # fmt: skip
    second = helper.make_node(
        "DepthToSpace", [between], [result], name=f"{shuffle.name}_after", blocksize=block, mode="CRD"
    )
    shuffle.CopyFrom(first)
    convolution.CopyFrom(second)
    kept = [value for value in graph.value_info if value.name not in (result, between)]
    del graph.value_info[:]
    graph.value_info.extend(kept)
