"""Graft pixel I/O onto a core graph, so that a runner passes pixels in and gets pixels back.

`with_pixel_io`: uint8 [N, H, W, C] in, uint8 [N, H * scale, W * scale, C] out, rounded to the nearest.
`with_float_io`: the same in float32, 0..1, for 16-bit pictures.

The core stays as it is, with one exception: if it ends in DepthToSpace (PixelShuffle), the shuffle is
removed there and done last, on the final pixels. Values are then rounded in the order in which they lie in
memory, and the shuffle moves bytes, in runs of `blocksize * C` values, where a plain shuffle moves single
values.

`planes=True` leaves that last shuffle to the caller: the graph gives the planes that it would shuffle, as bytes, and
its output is named after their order (`graph.planes`). `sr_deploy.engines.planes` shuffles them many times faster than
ONNX Runtime and OpenVINO transpose.

`for_tensorrt` writes the same arithmetic for a runtime that allows bytes only at the inputs and outputs of
a graph: the cast to uint8 is the last node, and rounded values are shuffled as floats, in one transpose. Bytes
inside the core, and those of a file that was exported with pixel I/O, become floats too (`byte_ports`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.errors import ModelError
from sr_deploy.graph.foreign_ports import has_plain_ports, with_plain_ports
from sr_deploy.graph.nodes import in_opset
from sr_deploy.graph.onnx_file import (
    PIXELS,
    UPSCALED,
    Port,
    copy_of,
    picture_io,
    require_spec,
    write_spec,
)
from sr_deploy.graph.planes import name_planes
from sr_deploy.spec import ModelSpec

_OLDEST_OPSET = 13
"""Opset that the result has at least. Older ones lack operators as this module writes them: Clip with its
bounds as inputs, and QuantizeLinear among others."""
_CORE = "core/"
"""Prefix of all names of the core, so that they differ from the names written around it."""
_UNARY = {
    *("Cast", "Clip", "Identity", "Neg", "Abs", "Round", "Floor", "Ceil"),
    *("Relu", "LeakyRelu", "Sigmoid", "HardSigmoid", "Tanh"),
}
"""Operators that compute each value from one value at the same place."""
_BINARY = {"Add", "Sub", "Mul", "Div", "Min", "Max"}
"""Operators that do so with a constant scalar as the other input."""


def with_pixel_io(
    model: onnx.ModelProto,
    spec: ModelSpec | None = None,
    *,
    for_tensorrt: bool = False,
    planes: bool = False,
) -> onnx.ModelProto:
    """Return a copy of `model` with uint8 [N, H, W, C] in and out.

    With `planes`, a graph that ends in a PixelShuffle gives [N, block * block * C, H, W] instead, still to be shuffled.

    A model that has uint8 pixel I/O already is returned as a plain copy. `spec` replaces the spec in
    `model`; the spec in the result describes the new inputs and outputs (NHWC, 0..255). Raises ModelError
    for a model without a spec, and for one that takes no picture.
    """
    return _graft_io(model, spec, TensorProto.UINT8, for_tensorrt, planes)


def with_float_io(
    model: onnx.ModelProto, spec: ModelSpec | None = None, *, for_tensorrt: bool = False
) -> onnx.ModelProto:
    """Return a copy of `model` with float32 [N, H, W, C] in and out, in 0..1; the result is clipped to it.

    Otherwise like `with_pixel_io`. Raises ModelError also for a model that has uint8 pixel I/O itself.
    """
    if has_pixel_io(model):
        raise ModelError("a model with uint8 pixel I/O has no float form; export it with `--io float`")
    return _graft_io(model, spec, TensorProto.FLOAT, for_tensorrt)


def has_pixel_io(model: onnx.ModelProto) -> bool:
    """Return True if the input or the output of `model` is uint8."""
    return any(port.elem_type == TensorProto.UINT8 for port in picture_io(model))


def with_port_names(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` whose input and output are called `pixels` and `upscaled`.

    A file that was exported with pixel I/O by another program may have other names.
    """
    made = copy_of(model)
    port_in, port_out = picture_io(made)
    if (port_in.name, port_out.name) == (PIXELS, UPSCALED):
        return made
    _prefix_names(made.graph)
    nodes = [
        helper.make_node("Identity", [PIXELS], [_CORE + port_in.name], name="io/input"),
        *_copies(made.graph.node),
        helper.make_node("Identity", [_CORE + port_out.name], [UPSCALED], name="io/output"),
    ]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    for values, old, new in ((made.graph.input, port_in, PIXELS), (made.graph.output, port_out, UPSCALED)):
        next(value for value in values if value.name == _CORE + old.name).name = new
    return made


def _graft_io(
    model: onnx.ModelProto,
    spec: ModelSpec | None,
    elem_type: int,
    for_tensorrt: bool,
    planes: bool = False,
) -> onnx.ModelProto:
    """Return a copy of `model` whose input and output are [N, H, W, C] of `elem_type`."""
    spec = spec or require_spec(model)
    if (
        has_plain_ports(spec)
        and spec.layout == "NHWC"
        and all(port.elem_type == TensorProto.UINT8 for port in picture_io(model))
    ):
        return _with_bytes_at_ports(model) if for_tensorrt else copy_of(model)
    model, spec = with_plain_ports(model, spec)
    core = in_opset(model, _OLDEST_OPSET)
    _prefix_names(core.graph)
    port_in, port_out = picture_io(core)
    graft = _Graft(core.graph, spec, elem_type, planes)
    graft.write_input(port_in)
    (graft.write_output_as_floats if for_tensorrt else graft.write_output)(port_out)
    graft.declare(port_in, port_out)
    core = _with_bytes_at_ports(core) if for_tensorrt else core
    full = (0.0, 255.0) if elem_type == TensorProto.UINT8 else (0.0, 1.0)
    return write_spec(core, spec.with_(layout="NHWC", value_range=full))


def _with_bytes_at_ports(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a copy of `model` without bytes inside; its opset is raised only if it has any."""
    from sr_deploy.graph.rewrites.byte_ports import has_inner_bytes, with_bytes_at_ports

    return with_bytes_at_ports(in_opset(model, _OLDEST_OPSET) if has_inner_bytes(model) else model)


def _prefix_names(graph: onnx.GraphProto) -> None:
    """Prefix every name in `graph`, subgraphs included, so that none equals a name written around it."""
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [_CORE + name if name else "" for name in names]
        for inner in _subgraphs(node):
            _prefix_names(inner)
    for named in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node):
        named.name = _CORE + named.name if named.name else ""
    for sparse in graph.sparse_initializer:
        sparse.values.name = _CORE + sparse.values.name


def _subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """Return the graphs inside `node` (If, Loop, Scan)."""
    single = [attribute.g for attribute in node.attribute if attribute.HasField("g")]
    return single + [inner for attribute in node.attribute for inner in attribute.graphs]


@dataclass(frozen=True)
class _Shuffle:
    """A DepthToSpace that was removed from the end of a graph."""

    block: int
    """Side of a block: output pixels per input pixel along each axis."""
    pixel_last: bool
    """Order of the channels: (row, column, C), which is ONNX's DCR, if True; (C, row, column), which is CRD
    and PyTorch's order, if False."""


class _Graft:
    """Writes nodes around a graph in place. `elem_type` is the type of the new input and output.

    `head` and `tail` collect the nodes before and after the core; `nodes` is the one being written. With `planes`, a
    last shuffle is left out.
    """

    def __init__(self, graph: onnx.GraphProto, spec: ModelSpec, elem_type: int, planes: bool) -> None:
        self.graph, self.spec, self.elem_type, self.planes = graph, spec, elem_type, planes
        self.output, self.block = UPSCALED, 0
        self.black, self.span = spec.value_range[0], spec.value_range[1] - spec.value_range[0]
        self.head: list[onnx.NodeProto] = []
        self.tail: list[onnx.NodeProto] = []
        self.nodes = self.head

    def op(self, op_type: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node to the current list; returns the name of its result."""
        name = out or f"io/{op_type}_{len(self.head) + len(self.tail)}"
        self.nodes.append(helper.make_node(op_type, list(inputs), [name], name=f"{name}_node", **attributes))
        return name

    def constant(self, value: npt.ArrayLike, dtype: type[np.generic]) -> str:
        """Add a constant to the graph; returns its name."""
        name = f"io/constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def scalar(self, value: float) -> str:
        """Add a float32 scalar to the graph; returns its name."""
        return self.constant(value, np.float32)

    def write_input(self, port_in: Port) -> None:
        """Write the nodes from the new input to the input of the core: cast, scale, transpose."""
        value = PIXELS
        if self.planes and self.spec.layout == "NCHW":  # bytes are moved, not floats
            value = self.op("Transpose", value, perm=[0, 3, 1, 2])
        if port_in.elem_type != TensorProto.UINT8:
            if self.elem_type == TensorProto.UINT8:
                value = self.op("Cast", value, to=TensorProto.FLOAT)
            full = 255.0 if self.elem_type == TensorProto.UINT8 else 1.0
            if self.span != full:  # a division, not a product: 8-bit pixels then equal what NumPy computes
                value = self.op("Div", value, self.scalar(full / self.span))
            if self.black:
                value = self.op("Add", value, self.scalar(self.black))
            if port_in.elem_type != TensorProto.FLOAT:
                value = self.op("Cast", value, to=port_in.elem_type)
        if self.spec.layout == "NCHW" and not self.planes:
            value = self.op("Transpose", value, perm=[0, 3, 1, 2])
        self.op("Identity", value, out=port_in.name)

    def write_output(self, port_out: Port) -> None:
        """Write the nodes from the core's output to the new output. Values are scaled, clipped and rounded
        before they are shuffled and transposed, so that both move final pixels."""
        shuffle = self._name_planes if self.planes else self._shuffle
        value = self._output_pixels(port_out, self._to_pixels, shuffle)
        self.op("Identity", value, out=self.output)

    def write_output_as_floats(self, port_out: Port) -> None:
        """Do the same for a runtime without bytes inside a graph: round, move, and cast at the very end.

        Whole numbers of 0 to 255 are exact in fp16, so an fp16 net moves fp16 values.
        """
        value = self._output_pixels(port_out, self._to_float_pixels, self._shuffle_in_one_transpose)
        if self.elem_type == port_out.elem_type == TensorProto.UINT8:
            self.op("Identity", value, out=UPSCALED)
        else:
            self.op("Cast", value, to=self.elem_type, out=UPSCALED)

    def _output_pixels(
        self,
        port_out: Port,
        to_pixels: Callable[[str], str],
        do_shuffle: Callable[[str, _Shuffle], str],
    ) -> str:
        """Write the output of the core as pixels [N, H, W, C]; returns their name. `to_pixels` is used if the
        core's output is no uint8 yet, and `do_shuffle` if the core ended in a shuffle."""
        self.nodes = self.tail
        shuffle = _take_shuffle(self.graph, port_out.name) if self.spec.layout == "NCHW" else None
        value = port_out.name
        if port_out.elem_type != TensorProto.UINT8:
            if port_out.elem_type != TensorProto.FLOAT:
                value = self.op("Cast", value, to=TensorProto.FLOAT)
            value = to_pixels(value)
        if shuffle:
            return do_shuffle(value, shuffle)
        return self.op("Transpose", value, perm=[0, 2, 3, 1]) if self.spec.layout == "NCHW" else value

    def _to_float_pixels(self, value: str) -> str:
        """Make the same pixels as `_to_pixels`, in 0..255 for uint8, but keep a floating-point type."""
        if self.elem_type != TensorProto.UINT8:
            return self._to_pixels(value)
        if self.black:
            value = self.op("Sub", value, self.scalar(self.black))
        value = self.op("Div", value, self.scalar(self.span / 255.0))
        value = self.op("Round", self.op("Clip", value, self.scalar(0.0), self.scalar(255.0)))
        return self.op("Cast", value, to=TensorProto.FLOAT16) if self.spec.precision == "fp16" else value

    def _shuffle_in_one_transpose(self, value: str, shuffle: _Shuffle) -> str:
        """Shuffle [N, block * block * C, H, W] to [N, H * block, W * block, C] by one transpose of six
        axes.

        Sizes are read from the tensor's shape, because H and W may be dynamic.
        """
        block, channels = shuffle.block, self.spec.channels
        parts = [block, block, channels] if shuffle.pixel_last else [channels, block, block]
        shape = self.op("Shape", value)
        count, size = (
            self.op("Slice", shape, *(self.constant([edge], np.int64) for edge in edges))
            for edges in ((0, 1), (2, 4))
        )
        split = self.op("Concat", count, self.constant(parts, np.int64), size, axis=0)
        grown = self.op("Mul", size, self.constant([block, block], np.int64))
        joined = self.op("Concat", count, grown, self.constant([channels], np.int64), axis=0)
        value = self.op("Reshape", value, split)
        order = [0, 4, 1, 5, 2, 3] if shuffle.pixel_last else [0, 4, 2, 5, 3, 1]
        return self.op("Reshape", self.op("Transpose", value, perm=order), joined)

    def _to_pixels(self, value: str) -> str:
        """Map the model's value range to 0..255 as uint8, or to 0..1 as float32, and clip."""
        if self.black:
            value = self.op("Sub", value, self.scalar(self.black))
        if self.elem_type == TensorProto.UINT8:  # scales, rounds half to even, clips and casts in one pass
            step, zero = self.scalar(self.span / 255.0), self.constant(0, np.uint8)
            return self.op("QuantizeLinear", value, step, zero)
        if self.span != 1.0:
            value = self.op("Div", value, self.scalar(self.span))
        return self.op("Clip", value, self.scalar(0.0), self.scalar(1.0))

    def _name_planes(self, value: str, shuffle: _Shuffle) -> str:
        """Leave the planes as they are, and name the output after their order."""
        self.block = shuffle.block
        self.output = name_planes(shuffle.block, shuffle.pixel_last)
        return value

    def _shuffle(self, value: str, shuffle: _Shuffle) -> str:
        """Shuffle [N, block * block * C, H, W] to [N, H * block, W * block, C] in two transposes.

        The first puts the channels last, in the order (row, column, C); the second moves runs of `block *
        C` values. A 0 in the constants of Reshape keeps the size of that axis.
        """
        block, channels = shuffle.block, self.spec.channels
        if not shuffle.pixel_last and channels > 1:
            # ordered (C, row, column); the transposes below need (row, column, C)
            order = np.arange(channels * block**2).reshape(channels, -1).T.ravel()
            value = self.op("Gather", value, self.constant(order, np.int64), axis=1)
        value = self.op("Transpose", value, perm=[0, 2, 3, 1])
        grown = self.op("Mul", self.op("Shape", value), self.constant([1, block, block, 0], np.int64))
        shape = self.op("Add", grown, self.constant([0, 0, 0, channels], np.int64))
        value = self.op("Reshape", value, self.constant([0, 0, 0, block, block * channels], np.int64))
        value = self.op("Transpose", value, perm=[0, 1, 3, 2, 4])
        return self.op("Reshape", value, shape)

    def declare(self, port_in: Port, port_out: Port) -> None:
        """Join head, core and tail, and declare the new input and output.

        Declared shapes of inner values are dropped: they may be those of the values before the shuffle was
        removed.
        """
        nodes = [*self.head, *(_copies(self.graph.node)), *self.tail]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        small, large = self._dims(port_in, "hw", 1), self._dims(port_in, "HW", self.spec.scale)
        if self.block:
            sizes = [
                size // self.block if isinstance(size, int) else f"{size}/{self.block}" for size in large[1:3]
            ]
            large = [large[0], self.block**2 * self.spec.channels, *sizes]
        ports = (
            (self.graph.input, port_in, PIXELS, small),
            (self.graph.output, port_out, self.output, large),
        )
        for values, port, name, dims in ports:
            kept = [value for value in values if value.name != port.name]
            del values[:]
            values.extend([*kept, helper.make_tensor_value_info(name, self.elem_type, dims)])

    def _dims(self, port_in: Port, axes: str, scale: int) -> list[int | str]:
        """Return the axes [N, H, W, C] to declare: `scale` times the sizes that the core's input fixes, else names.

        What the core declares of its output is not used: exporters declare the size of the picture they traced.
        """
        batch, *rest = port_in.dims
        height, width = (
            size and size * scale for size in (rest[1:] if self.spec.layout == "NCHW" else rest[:2])
        )
        return [batch or "n", height or axes[0], width or axes[1], self.spec.channels]


def _copies(nodes: Iterable[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Copy nodes, so that they stay valid when the graph they come from is cleared."""
    copies = []
    for node in nodes:
        copies.append(onnx.NodeProto())
        copies[-1].CopyFrom(node)
    return copies


def _take_shuffle(graph: onnx.GraphProto, output: str) -> _Shuffle | None:
    """Remove the last DepthToSpace from `graph` if only value-by-value operators follow it.

    The same function of every value gives the same result before and after a shuffle, so `output` then
    holds the same values, unshuffled. None, and nothing is changed, if the graph ends otherwise, if another
    node reads a value on the way, or if a node has a subgraph, which may read such a value too.
    """
    if any(_subgraphs(node) for node in graph.node):  # they may read a value that would change
        return None
    makers = {name: node for node in graph.node for name in node.output}
    uses = [name for node in graph.node for name in node.input]
    constants = {t.name: t for t in graph.initializer}
    name = output
    while node := makers.get(name):
        if uses.count(name) != (name != output):
            return None
        if node.op_type == "DepthToSpace" and node.domain in ("", "ai.onnx"):
            return _remove_shuffle(graph, node)
        following = _only_variable_input(node, makers, constants)
        if following is None:
            return None
        name = following
    return None


def _only_variable_input(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]
) -> str | None:
    """Return the one input of a value-by-value `node` that is no constant scalar; None for any other node."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in _UNARY | _BINARY:
        return None
    rest = [n for n in node.input if n and not _is_scalar(n, makers, constants)]
    return rest[0] if len(rest) == 1 and (node.op_type in _BINARY or rest[0] == node.input[0]) else None


def _is_scalar(name: str, makers: dict[str, onnx.NodeProto], constants: dict[str, onnx.TensorProto]) -> bool:
    tensor = constants.get(name)
    maker = makers.get(name)
    if maker is not None and maker.op_type == "Constant":
        tensor = next((a.t for a in maker.attribute if a.name == "value"), None)
        return tensor is None or int(np.prod(tensor.dims)) == 1
    return tensor is not None and int(np.prod(tensor.dims)) == 1


def _remove_shuffle(graph: onnx.GraphProto, node: onnx.NodeProto) -> _Shuffle | None:
    """Turn the DepthToSpace `node` into an Identity and return what it did.

    None, and nothing is changed, if its attributes or inputs are not those of the ONNX standard.
    """
    settings = {a.name: a for a in node.attribute}
    block = settings["blocksize"].i if "blocksize" in settings else 0
    mode = settings["mode"].s if "mode" in settings else b"DCR"
    if block < 1 or mode not in (b"DCR", b"CRD") or len(node.input) != 1 or len(node.output) != 1:
        return None
    identity = helper.make_node("Identity", node.input, node.output, name=node.name)
    node.CopyFrom(identity)
    return _Shuffle(int(block), mode == b"DCR")
