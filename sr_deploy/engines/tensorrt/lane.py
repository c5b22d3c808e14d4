"""A lane: what one run at a time needs to use an engine on the GPU; and the pool that runs take lanes from.

A lane has a CUDA stream, working memory, and buffers for pixels, all grown to the largest picture so far. For
a few shapes it keeps an execution context set up. From the second run of a shape on, it also keeps the CUDA
graph of the run. Such a context never changes its shape, which makes replaying its graph safe.

All work of a lane is queued on its own stream, so two runs never use the same memory at the same time.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from sr_deploy.engines.tensorrt import api
from sr_deploy.engines.tensorrt.cuda import CudaGraph, DeviceBuffer, GpuContext, PinnedBuffer
from sr_deploy.engines.tensorrt.profiles import Profile, choose_profile
from sr_deploy.errors import ModelError, OutOfMemoryError, UsageError

Dims = tuple[int, ...]
"""A shape [N, H, W, C]."""
_CLOSE_SECONDS = 10.0
"""Time that `Lanes.close` waits for runs in other threads; a run that hangs must not block the exit."""


@dataclass(frozen=True, kw_only=True)
class LoadedEngine:
    """An engine on the GPU, shared by all its lanes."""

    trt: ModuleType
    """The `tensorrt` package."""
    gpu: GpuContext
    engine: Any
    """TensorRT's `ICudaEngine`."""
    log: api.TensorRTLog
    input_name: str
    """Name of the input tensor."""
    output_name: str
    """Name of the output tensor."""
    profiles: tuple[Profile, ...]
    """The profiles, in the order of their numbers in the engine."""
    graphs: bool
    """Record shapes that come up again as CUDA graphs."""
    shapes_kept: int
    """Number of contexts that each lane keeps set up."""


@dataclass
class _PreparedContext:
    """An execution context that is set up for one shape."""

    context: Any
    memory: int
    """Working memory it needs, in bytes."""
    bound: tuple[int, int, int] = (0, 0, 0)
    """Device addresses of the input, the output and the working memory; 0: not bound."""
    runs: int = 0
    """Number of runs with these addresses."""
    graph: CudaGraph | None = None
    """The recorded run; valid only for the addresses in `bound`."""
    recordable: bool = True
    """False after recording has failed once, so that it is not tried again."""

    def free_graph(self) -> None:
        """Release the graph, if there is one."""
        if self.graph is not None:
            self.graph.free()
            self.graph = None


class Lane:
    """Runs one picture at a time. Not thread-safe: a lane belongs to the run that took it.

    Needs the CUDA context to be current, except in `close`.
    """

    def __init__(self, loaded: LoadedEngine) -> None:
        self.loaded = loaded
        gpu = loaded.gpu
        self.stream = gpu.stream()
        self.device_in, self.device_out = DeviceBuffer(gpu), DeviceBuffer(gpu)
        self.host_in, self.host_out = PinnedBuffer(gpu), PinnedBuffer(gpu)
        self.memory = DeviceBuffer(gpu)
        self._prepared: OrderedDict[Dims, _PreparedContext] = OrderedDict()

    @property
    def handle(self) -> int:
        """CUDA's handle of the stream, as an integer."""
        return int(self.stream.handle)

    def reserve(self, input_bytes: int, output_bytes: int) -> tuple[int, int]:
        """Return device addresses of at least `input_bytes` and `output_bytes`; waits for the stream if they
        move.
        """
        wait = self.stream.synchronize
        return self.device_in.reserve(input_bytes, wait), self.device_out.reserve(output_bytes, wait)

    def launch(self, shape: Dims, expected: Dims, source: int, target: int) -> None:
        """Queue a run from the device address `source`, pixels of `shape` [N, H, W, C], to `target`; does not
        wait.

        The first run with given addresses is executed directly, the second is recorded as a graph, later ones
        replay it. Raises OutOfMemoryError, or ModelError if the output shape differs from `expected` or
        TensorRT fails.
        """
        prepared = self._prepare(shape, expected)
        self._bind(prepared, source, target)
        if prepared.graph is not None:
            prepared.graph.launch(self.handle)
        elif self.loaded.graphs and prepared.recordable and prepared.runs:
            self._record(prepared)
        else:
            api.execute(prepared.context, self.handle, self.loaded.log)
        prepared.runs += 1

    def _record(self, prepared: _PreparedContext) -> None:
        """Record the run as a graph and replay it. If it cannot be recorded, execute it directly from now on."""
        loaded = self.loaded
        try:
            prepared.graph = CudaGraph(
                self.handle, lambda: api.execute(prepared.context, self.handle, loaded.log)
            )
        except (RuntimeError, AttributeError, ModelError):
            prepared.recordable = False
            loaded.log.take()
            api.execute(prepared.context, self.handle, loaded.log)
        else:
            prepared.graph.launch(self.handle)

    def _prepare(self, shape: Dims, expected: Dims) -> _PreparedContext:
        """Return the context for `shape`: the one set up for it, or else a newly set up one. Raises
        ModelError if the engine's output shape is not `expected`: then engine and sidecar do not belong
        together."""
        if shape in self._prepared:
            self._prepared.move_to_end(shape)
            return self._prepared[shape]
        context = self._unused_context()
        loaded = self.loaded
        profile = choose_profile(loaded.profiles, shape[:3])
        api.set_shape(context, loaded.input_name, shape, profile, self.handle, loaded.log)
        found = api.output_shape(context, loaded.output_name)
        if found != expected:
            raise ModelError(
                f"the engine turns shape {shape} into {found}, its sidecar says {expected}; build it again"
            )
        prepared = _PreparedContext(context, api.memory_needed(loaded.engine, context, profile))
        self._prepared[shape] = prepared
        return prepared

    def _unused_context(self) -> Any:
        """Return a new context, or at the limit `shapes_kept` the one that was not used for longest."""
        if len(self._prepared) < self.loaded.shapes_kept:
            return api.new_context(self.loaded.trt, self.loaded.engine, self.loaded.log)
        _, oldest = self._prepared.popitem(last=False)
        self.stream.synchronize()
        oldest.free_graph()
        return oldest.context

    def _bind(self, prepared: _PreparedContext, source: int, target: int) -> None:
        """Bind input, output and working memory to the context, unless they are bound already.

        Graphs hold addresses, so a change releases the context's graph.
        """
        loaded = self.loaded
        memory = self.memory.reserve(prepared.memory, self._unbind_all)
        if prepared.bound == (source, target, memory):
            return
        prepared.free_graph()
        api.give_memory(prepared.context, memory, self.memory.size)
        api.bind(prepared.context, loaded.input_name, source, loaded.log)
        api.bind(prepared.context, loaded.output_name, target, loaded.log)
        prepared.bound, prepared.runs = (source, target, memory), 0

    def _unbind_all(self) -> None:
        """Prepare for the working memory to move. Waits until no run uses it, and releases all graphs, since
        they hold its old address."""
        self.stream.synchronize()
        for prepared in self._prepared.values():
            prepared.free_graph()
            prepared.bound = (0, 0, 0)

    def held_bytes(self) -> int:
        """Device memory of the buffers in bytes; TensorRT's own memory is not counted."""
        return self.device_in.size + self.device_out.size + self.memory.size

    def close(self) -> None:
        """Release everything, ignoring errors. The CUDA context need not be current."""
        with suppress(Exception), self.loaded.gpu.current():
            self._release()

    def _release(self) -> None:
        """Wait for the stream, then release graphs, contexts, buffers and stream, each before what it depends
        on.
        """
        with suppress(Exception):  # waiting for a GPU that failed raises; its memory is lost anyway
            self.stream.synchronize()
        for prepared in self._prepared.values():
            with suppress(Exception):
                prepared.free_graph()
        self._prepared.clear()
        for buffer in (self.memory, self.device_in, self.device_out, self.host_in, self.host_out):
            with suppress(Exception):
                buffer.free()
        del self.stream


class Lanes:
    """The pool of lanes of one engine: made on demand, up to `limit` of them. Thread-safe.

    `make` creates a lane. The lane that came back last is taken first.
    """

    def __init__(self, make: Callable[[], Any], limit: int) -> None:
        self._make, self._limit = make, limit
        self._idle: deque[Any] = deque()
        self._count = 0
        self._closed = False
        self._change = threading.Condition()

    def take(self, *, wait: bool = True) -> Any:
        """Take a lane for one run; it must be given back or discarded afterwards.

        Blocks while all lanes are busy; with `wait` off, returns None instead. If memory does not suffice for
        another lane, the limit is lowered to the lanes that exist. Raises UsageError after `close`, and
        OutOfMemoryError if not even the first lane can be made.
        """
        with self._change:
            while True:
                if self._closed:
                    raise UsageError("this engine is closed; make a new one")
                if self._idle:
                    return self._idle.pop()
                if self._count < self._limit and (lane := self._make_lane()) is not None:
                    return lane
                if not wait:
                    return None
                self._change.wait()

    def _make_lane(self) -> Any:
        """Make a lane, or lower the limit and return None if memory runs out; the first lane's error is raised."""
        try:
            lane = self._make()
        except OutOfMemoryError:
            if not self._count:
                raise
            self._limit = self._count
            return None
        self._count += 1
        return lane

    def give_back(self, lane: Any) -> None:
        """Return a lane whose run succeeded. After `close` it is released."""
        with self._change:
            if self._closed:
                self._release_lane(lane)
            else:
                self._idle.append(lane)
            self._change.notify()

    def discard(self, lane: Any) -> None:
        """Release a lane whose run failed: it is not known what is still queued in it."""
        with self._change:
            self._release_lane(lane)
            self._change.notify()

    def _release_lane(self, lane: Any) -> None:
        """Release a lane and wake waiting threads; the lock must be held."""
        self._count -= 1
        lane.close()
        self._change.notify_all()

    def close(self) -> None:
        """Release idle lanes, and wait up to `_CLOSE_SECONDS` for busy ones. Later calls of `take` raise."""
        with self._change:
            self._closed = True
            while self._idle:
                self._release_lane(self._idle.pop())
            self._change.notify_all()
            self._change.wait_for(lambda: not self._count, timeout=_CLOSE_SECONDS)

    def trim(self) -> None:
        """Release idle lanes to free their memory."""
        with self._change:
            while self._idle:
                self._release_lane(self._idle.pop())

    def idle(self) -> Sequence[Any]:
        """Return the lanes that are not in use at the moment."""
        with self._change:
            return tuple(self._idle)
