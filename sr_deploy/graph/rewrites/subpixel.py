"""Move a convolution in front of the PixelShuffle before it, so that it runs on the small picture.

A net that ends in PixelShuffle and a last convolution to three channels shuffles all its features at full
size, and then drops most of them: at x4 that is more memory traffic than any of its convolutions. One
convolution of the unshuffled features to `3 * block**2` channels gives the same three channels, and its
result, a twentieth in size, is shuffled afterwards. Its kernel is the old one laid out over the phases of
the shuffle, that is, over the places in a block. Most of it is zeros, but matrix units pad three channels
to as many anyway. The sums have the same terms, added in another order.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sr_deploy.graph.nodes import attributes_of
from sr_deploy.graph.onnx_file import copy_of, remove_weights
from sr_deploy.system.arrays import AnyArray

_PHASES = "/phases"
"""Name ending of kernels and biases that were laid out again for the phases."""
_MOST_CHANNELS = 64
"""Largest number of channels of the new convolution. Beyond it, its zeros cost more than the shuffle did."""


def convolve_before_shuffle(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` in which narrow convolutions come before the DepthToSpace that feeds them.

    A DepthToSpace stays where it is if another node or the graph's output reads its result too, or if the
    convolution has strides, dilations, groups, an even side, or padding that changes the size.
    """
    copied = copy_of(model)
    for shuffle in [node for node in copied.graph.node if node.op_type == "DepthToSpace"]:
        convolution = _only_reader(copied.graph, shuffle.output[0])
        if convolution is not None:
            _swap(copied.graph, shuffle, convolution)
    _drop_unused(copied.graph)
    return copied


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Remove old kernels and biases that no node reads. Names that were not laid out anew stay, because
    subgraphs may read them."""
    read = {name for node in graph.node for name in node.input}
    laid_out = {t.name.removesuffix(_PHASES) for t in graph.initializer if t.name.endswith(_PHASES)}
    remove_weights(graph, laid_out - read)


def _only_reader(graph: onnx.GraphProto, name: str) -> onnx.NodeProto | None:
    """Return the convolution that alone reads the value `name` as its picture; None for anything else."""
    readers = [node for node in graph.node if name in node.input]
    if len(readers) != 1 or any(port.name == name for port in graph.output):
        return None
    node = readers[0]
    return (
        node if node.op_type == "Conv" and node.domain in ("", "ai.onnx") and node.input[0] == name else None
    )


def _swap(graph: onnx.GraphProto, shuffle: onnx.NodeProto, convolution: onnx.NodeProto) -> None:
    """Swap `shuffle` and `convolution` in place, if the convolution is plain and its weights are constant."""
    settings = attributes_of(shuffle)
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


def _keeps_size(node: onnx.NodeProto, kernel: AnyArray) -> bool:
    """Return True if `node` is an odd square convolution that keeps the size: no strides, dilations or
    groups."""
    side = kernel.shape[2]
    settings = attributes_of(node)
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


def kernel_before_shuffle(kernel: AnyArray, block: int, *, pixel_last: bool) -> AnyArray:
    """Turn the kernel [O, C, k, k] of a convolution after a shuffle into the kernel of one before it.

    The result is [O * block**2, C * block**2, K, K]. Row y of the large picture is row `y % block` within
    row `y // block` of the small one. So tap d of output phase i reads phase `(i + d) % block` of the row
    `(i + d) // block` further on, with d counted from the middle of the kernel. Output channels are ordered
    (O, row, column). Input channels are ordered as DepthToSpace has them: (C, row, column), or (row,
    column, C) if `pixel_last`.
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


def _store(graph: onnx.GraphProto, name: str, values: AnyArray) -> str:
    """Add a constant to the graph; returns its name."""
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
    """Write the convolution into the first node and the shuffle into the second, in place.

    The result of the shuffle now has the name that the convolution's result had, so later nodes need no
    change. Declared shapes of both results are dropped, because they are wrong now.
    """
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
