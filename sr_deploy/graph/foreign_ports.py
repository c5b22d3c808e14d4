"""Give a foreign graph the ports that all other parts expect: RGB, one value range, and a whole multiple in size.

A foreign net may take BGR, may give values in another range than it takes, and may leave out a border because its
convolutions do not pad. Its spec says so (`channel_order`, `output_range`, `inset`). Here these facts become
nodes around the graph, so that no runner needs to know of them. The graph of a spec without such facts is returned
as it is.

An inset is undone at the input: the picture's border pixels are repeated outwards, as wide as the net leaves out.
Inside a tile those pixels lie in the halo, so tiles stay exact.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from sr_deploy.graph.nodes import in_opset
from sr_deploy.graph.onnx_file import Port, picture_io, read_spec, write_spec
from sr_deploy.spec import ModelSpec

_OLDEST_OPSET = 13
"""Opset in which the nodes below are written: Pad and Slice take their numbers as inputs."""
_PREFIX = "ports/"
"""Prefix of the names of added nodes and values."""


def has_plain_ports(spec: ModelSpec) -> bool:
    """Return True if a graph with this spec needs no nodes around it."""
    return spec.output_range is None and spec.channel_order == "RGB" and not spec.inset


def with_plain_ports(model: onnx.ModelProto, spec: ModelSpec) -> tuple[onnx.ModelProto, ModelSpec]:
    """Return a graph with ordinary ports that computes the picture of `model`, and its spec.

    `model` is described by `spec` and is not changed. The input and output keep their names, types and layout. The
    spec in the result, if there is one in `model`, is the new one. Raises ModelError for a graph that takes no
    picture, and for one that ONNX cannot convert to opset 13.
    """
    if has_plain_ports(spec):
        return model, spec
    plain = spec.with_(output_range=None, channel_order="RGB", inset=0)
    wrapped = in_opset(model, _OLDEST_OPSET)
    port_in, port_out = picture_io(wrapped)
    wrapper = _Wrapper(wrapped.graph, spec, port_out)
    wrapper.wrap_input(port_in)
    wrapper.wrap_output(port_out)
    return (write_spec(wrapped, plain) if read_spec(model) else wrapped), plain


class _Wrapper:
    """Adds nodes before and after a graph, in place.

    The core gets other names for its input and output, so that the ports keep theirs.
    """

    def __init__(self, graph: onnx.GraphProto, spec: ModelSpec, port_out: Port) -> None:
        self.graph, self.spec = graph, spec
        self.is_last = spec.layout == "NHWC"
        self.spatial = (1, 2) if self.is_last else (2, 3)
        self.pad = -(-spec.inset // spec.scale)
        self.crop = self.pad * spec.scale - spec.inset
        # bytes are 0..255 by their type, whatever the spec says
        self.scales = spec.output_range is not None and port_out.elem_type != TensorProto.UINT8
        self.added: list[onnx.NodeProto] = []

    def op(self, op_type: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """Append a node to the added ones; returns the name of its result."""
        name = out or f"{_PREFIX}{op_type}_{len(self.graph.initializer)}_{len(self.added)}"
        self.added.append(helper.make_node(op_type, list(inputs), [name], name=f"{name}_node", **attributes))
        return name

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """Add a constant to the graph; returns its name."""
        name = f"{_PREFIX}constant_{len(self.graph.initializer)}"
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def wrap_input(self, port: Port) -> None:
        """Write the nodes between the input and the core: order of the colours, then the repeated border."""
        core = _PREFIX + "core_input"
        _rename(self.graph, port.name, core)
        value = self._reversed_colours(port.name)
        if self.pad:
            before = [self.pad if axis in self.spatial else 0 for axis in range(4)]
            value = self.op("Pad", value, self.constant(before * 2, np.int64), mode="edge")
        self.op("Identity", value, out=core)
        nodes = [*self.added, *(_copy(node) for node in self.graph.node)]
        del self.graph.node[:], self.graph.value_info[:]
        self.graph.node.extend(nodes)
        self.added = []
        for given in self.graph.input:
            if given.name == port.name:
                for axis in self.spatial:
                    dim = given.type.tensor_type.shape.dim[axis]
                    if dim.dim_value:
                        dim.dim_value -= 2 * self.pad

    def wrap_output(self, port: Port) -> None:
        """Write the nodes between the core and the output: crop, value range, order of the colours."""
        core = _PREFIX + "core_output"
        _rename(self.graph, port.name, core)
        value = core
        if self.crop:
            numbers = ([self.crop] * 2, [-self.crop] * 2, list(self.spatial))
            value = self.op("Slice", value, *(self.constant(n, np.int64) for n in numbers))
        if self.scales:
            value = self._in_input_range(value, port)
        self.op("Identity", self._reversed_colours(value), out=port.name)
        self.graph.node.extend(self.added)
        dims: list[int | None] = [*port.dims]
        for axis in self.spatial:
            dims[axis] = None
        kind = port.elem_type
        del self.graph.output[:]
        self.graph.output.append(helper.make_tensor_value_info(port.name, kind, dims))

    def _in_input_range(self, value: str, port: Port) -> str:
        """Map the output's value range to that of the input."""
        black, white = self.spec.output_range or self.spec.value_range
        wanted = self.spec.value_range
        kinds: dict[int, type[np.generic]] = {
            TensorProto.DOUBLE: np.float64,
            TensorProto.FLOAT16: np.float16,
        }
        kind = kinds.get(port.elem_type, np.float32)
        is_bf16 = port.elem_type == TensorProto.BFLOAT16
        value = self.op("Cast", value, to=TensorProto.FLOAT) if is_bf16 else value
        if black:
            value = self.op("Sub", value, self.constant(black, kind))
        value = self.op("Div", value, self.constant((white - black) / (wanted[1] - wanted[0]), kind))
        if wanted[0]:
            value = self.op("Add", value, self.constant(wanted[0], kind))
        return self.op("Cast", value, to=TensorProto.BFLOAT16) if is_bf16 else value

    def _reversed_colours(self, value: str) -> str:
        """Swap red and blue if the net takes BGR."""
        if self.spec.channel_order == "RGB" or self.spec.channels != 3:
            return value
        return self.op("Gather", value, self.constant([2, 1, 0], np.int64), axis=3 if self.is_last else 1)


def _rename(graph: onnx.GraphProto, old: str, new: str) -> None:
    """Rename a value in all nodes of `graph`, in those that read it too, subgraphs included."""
    for node in graph.node:
        node.input[:] = [new if name == old else name for name in node.input]
        node.output[:] = [new if name == old else name for name in node.output]
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                _rename(inner, old, new)


def _copy(node: onnx.NodeProto) -> onnx.NodeProto:
    """Copy a node, so that it stays valid when its graph is cleared."""
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied
