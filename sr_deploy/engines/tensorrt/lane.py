"""A lane: what one call at a time needs to run an engine on the GPU, and the pool that calls take lanes from.

A lane has a stream, working memory, and buffers for pixels, all grown to the largest picture so far. For a few
shapes it keeps an execution context set up, and once a shape comes up again, the CUDA graph of its run: a context
that never changes its shape is what makes replaying a graph of it safe. Everything of a lane is queued on its own
stream, so nothing in it is ever used by two runs at once.
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
_CLOSE_SECONDS = 10.0
"""Seconds that `close` waits for runs in other threads; one that hangs must not hang the end of the program."""


@dataclass(frozen=True, kw_only=True)
class LoadedEngine:
    """An engine on the GPU, as all its lanes see it."""

    trt: ModuleType
    gpu: GpuContext
    engine: Any
    log: api.TensorRTLog
    input_name: str
    """Name of the input."""
    output_name: str
    """Name of the output."""
    profiles: tuple[Profile, ...]
    graphs: bool
    shapes_kept: int


@dataclass
class _PreparedContext:
    """An execution context that is set up for one shape."""

    context: Any
    memory: int
    """Bytes of working memory it needs."""
    bound: tuple[int, int, int] = (0, 0, 0)
    """Addresses of the input, the output and the working memory."""
    runs: int = 0
    """With these addresses."""
    graph: CudaGraph | None = None
    recordable: bool = True

    def free_graph(self) -> None:
        if self.graph is not None:
            self.graph.free()
            self.graph = None


class Lane:
    """Runs one picture at a time. To be used with the CUDA context current."""

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
        """CUDA's own number of the stream."""
        return int(self.stream.handle)

    def reserve(self, input_bytes: int, output_bytes: int) -> tuple[int, int]:
        """Device addresses of `input_bytes` and `output_bytes`, for the input and the output."""
        wait = self.stream.synchronize
        return self.device_in.reserve(input_bytes, wait), self.device_out.reserve(output_bytes, wait)

    def launch(self, shape: Dims, expected: Dims, source: int, target: int) -> None:
        """Queue a run from device address `source`, pixels of `shape` [N, H, W, C], to `target`.

        Raises OutOfMemoryError, ModelError where the engine gives another shape than `expected`.
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
        """Record the run as a graph and replay it; without one, where it cannot be recorded."""
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
        """The context for `shape`: the one it was set up in, else the one that was not used for longest."""
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
                f"the engine makes {found} of {shape}, its record says {expected}; build it again"
            )
        prepared = _PreparedContext(context, api.memory_needed(loaded.engine, context, profile))
        self._prepared[shape] = prepared
        return prepared

    def _unused_context(self) -> Any:
        if len(self._prepared) < self.loaded.shapes_kept:
            return api.new_context(self.loaded.trt, self.loaded.engine, self.loaded.log)
        _, oldest = self._prepared.popitem(last=False)
        self.stream.synchronize()
        oldest.free_graph()
        return oldest.context

    def _bind(self, prepared: _PreparedContext, source: int, target: int) -> None:
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
        """The working memory is about to move: nothing may use it, and graphs that name it are void."""
        self.stream.synchronize()
        for prepared in self._prepared.values():
            prepared.free_graph()
            prepared.bound = (0, 0, 0)

    def held_bytes(self) -> int:
        """Bytes of device memory, TensorRT's own aside."""
        return self.device_in.size + self.device_out.size + self.memory.size

    def close(self) -> None:
        """Release everything, in the order that each needs what comes after it. The context need not be current."""
        with suppress(Exception), self.loaded.gpu.current():
            self._release()

    def _release(self) -> None:
        with suppress(Exception):  # a GPU that failed cannot be waited for, and its memory is gone anyway
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
    """The lanes of one engine, made when they are first needed, `most` of them. Serves several threads."""

    def __init__(self, make: Callable[[], Any], limit: int) -> None:
        self._make, self._limit = make, limit
        self._idle: deque[Any] = deque()
        self._count = 0
        self._closed = False
        self._change = threading.Condition()

    def take(self, *, wait: bool = True) -> Any:
        """A lane for one run, to be given back; None where all are busy and `wait` is off.

        Raises UsageError after `close`, and what making the first lane raises. Where memory does not suffice for
        another one, those that are there have to do.
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
        """A lane whose run has ended well. After `close` it is released."""
        with self._change:
            if self._closed:
                self._release_lane(lane)
            else:
                self._idle.append(lane)
            self._change.notify()

    def discard(self, lane: Any) -> None:
        """A lane whose run failed: what is queued in it is not known."""
        with self._change:
            self._release_lane(lane)
            self._change.notify()

    def _release_lane(self, lane: Any) -> None:
        self._count -= 1
        lane.close()
        self._change.notify_all()

    def close(self) -> None:
        """Release idle lanes, and wait for busy ones to come back and be released."""
        with self._change:
            self._closed = True
            while self._idle:
                self._release_lane(self._idle.pop())
            self._change.notify_all()
            self._change.wait_for(lambda: not self._count, timeout=_CLOSE_SECONDS)

    def trim(self) -> None:
        """Release idle lanes, for the memory they hold."""
        with self._change:
            while self._idle:
                self._release_lane(self._idle.pop())

    def idle(self) -> Sequence[Any]:
        """Those that nothing runs in at the moment."""
        with self._change:
            return tuple(self._idle)
