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
_PATIENCE = 10.0
"""Seconds that `close` waits for runs in other threads; one that hangs must not hang the end of the program."""


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """An engine on the GPU, as all its lanes see it."""

    trt: ModuleType
    gpu: GpuContext
    engine: Any
    log: api.TensorRTLog
    taken: str
    """Name of the input."""
    given: str
    """Name of the output."""
    profiles: tuple[Profile, ...]
    graphs: bool
    shapes_kept: int


@dataclass
class _Prepared:
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

    def forget_graph(self) -> None:
        if self.graph is not None:
            self.graph.free()
            self.graph = None


class Lane:
    """Runs one picture at a time. To be used with the CUDA context current."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        gpu = loaded.gpu
        self.stream = gpu.stream()
        self.device_in, self.device_out = DeviceBuffer(gpu), DeviceBuffer(gpu)
        self.host_in, self.host_out = PinnedBuffer(gpu), PinnedBuffer(gpu)
        self.memory = DeviceBuffer(gpu)
        self._prepared: OrderedDict[Dims, _Prepared] = OrderedDict()

    @property
    def handle(self) -> int:
        """CUDA's own number of the stream."""
        return int(self.stream.handle)

    def reserve(self, taken: int, given: int) -> tuple[int, int]:
        """Device addresses of `taken` and `given` bytes, for the input and the output."""
        wait = self.stream.synchronize
        return self.device_in.reserve(taken, wait), self.device_out.reserve(given, wait)

    def launch(self, shape: Dims, expected: Dims, source: int, target: int) -> None:
        """Queue a run from device address `source`, pixels of `shape` [N, H, W, C], to `target`.

        Raises OutOfMemoryError, ModelError where the engine gives another shape than `expected`.
        """
        ready = self._ready(shape, expected)
        self._bind(ready, source, target)
        if ready.graph is not None:
            ready.graph.launch(self.handle)
        elif self.loaded.graphs and ready.recordable and ready.runs:
            self._record(ready)
        else:
            api.execute(ready.context, self.handle, self.loaded.log)
        ready.runs += 1

    def _record(self, ready: _Prepared) -> None:
        """Record the run as a graph and replay it; without one, where it cannot be recorded."""
        loaded = self.loaded
        try:
            ready.graph = CudaGraph(self.handle, lambda: api.execute(ready.context, self.handle, loaded.log))
        except (RuntimeError, AttributeError, ModelError):
            ready.recordable = False
            loaded.log.take()
            api.execute(ready.context, self.handle, loaded.log)
        else:
            ready.graph.launch(self.handle)

    def _ready(self, shape: Dims, expected: Dims) -> _Prepared:
        """The context for `shape`: the one it was set up in, else the one that was not used for longest."""
        if shape in self._prepared:
            self._prepared.move_to_end(shape)
            return self._prepared[shape]
        context = self._spare_context()
        loaded = self.loaded
        profile = choose_profile(loaded.profiles, shape[:3])
        api.set_shape(context, loaded.taken, shape, profile, self.handle, loaded.log)
        found = api.output_shape(context, loaded.given)
        if found != expected:
            raise ModelError(
                f"the engine makes {found} of {shape}, its record says {expected}; build it again"
            )
        ready = _Prepared(context, api.memory_needed(loaded.engine, context, profile))
        self._prepared[shape] = ready
        return ready

    def _spare_context(self) -> Any:
        if len(self._prepared) < self.loaded.shapes_kept:
            return api.new_context(self.loaded.trt, self.loaded.engine, self.loaded.log)
        _, oldest = self._prepared.popitem(last=False)
        self.stream.synchronize()
        oldest.forget_graph()
        return oldest.context

    def _bind(self, ready: _Prepared, source: int, target: int) -> None:
        loaded = self.loaded
        memory = self.memory.reserve(ready.memory, self._before_moving)
        if ready.bound == (source, target, memory):
            return
        ready.forget_graph()
        api.give_memory(ready.context, memory, self.memory.size)
        api.bind(ready.context, loaded.taken, source, loaded.log)
        api.bind(ready.context, loaded.given, target, loaded.log)
        ready.bound, ready.runs = (source, target, memory), 0

    def _before_moving(self) -> None:
        """The working memory is about to move: nothing may use it, and graphs that name it are void."""
        self.stream.synchronize()
        for ready in self._prepared.values():
            ready.forget_graph()
            ready.bound = (0, 0, 0)

    def held(self) -> int:
        """Bytes of device memory, TensorRT's own aside."""
        return self.device_in.size + self.device_out.size + self.memory.size

    def close(self) -> None:
        """Release everything, in the order that each needs what comes after it. The context need not be current."""
        with suppress(Exception), self.loaded.gpu.current():
            self._release()

    def _release(self) -> None:
        with suppress(Exception):  # a GPU that failed cannot be waited for, and its memory is gone anyway
            self.stream.synchronize()
        for ready in self._prepared.values():
            with suppress(Exception):
                ready.forget_graph()
        self._prepared.clear()
        for buffer in (self.memory, self.device_in, self.device_out, self.host_in, self.host_out):
            with suppress(Exception):
                buffer.free()
        del self.stream


class Lanes:
    """The lanes of one engine, made when they are first needed, `most` of them. Serves several threads."""

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self._make, self._most = make, most
        self._idle: deque[Any] = deque()
        self._made = 0
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
                if self._made < self._most and (lane := self._another()) is not None:
                    return lane
                if not wait:
                    return None
                self._change.wait()

    def _another(self) -> Any:
        try:
            lane = self._make()
        except OutOfMemoryError:
            if not self._made:
                raise
            self._most = self._made
            return None
        self._made += 1
        return lane

    def give(self, lane: Any) -> None:
        """A lane whose run has ended well. After `close` it is released."""
        with self._change:
            if self._closed:
                self._drop(lane)
            else:
                self._idle.append(lane)
            self._change.notify()

    def discard(self, lane: Any) -> None:
        """A lane whose run failed: what is queued in it is not known."""
        with self._change:
            self._drop(lane)
            self._change.notify()

    def _drop(self, lane: Any) -> None:
        self._made -= 1
        lane.close()
        self._change.notify_all()

    def close(self) -> None:
        """Release idle lanes, and wait for busy ones to come back and be released."""
        with self._change:
            self._closed = True
            while self._idle:
                self._drop(self._idle.pop())
            self._change.notify_all()
            self._change.wait_for(lambda: not self._made, timeout=_PATIENCE)

    def trim(self) -> None:
        """Release idle lanes, for the memory they hold."""
        with self._change:
            while self._idle:
                self._drop(self._idle.pop())

    def idle(self) -> Sequence[Any]:
        """Those that nothing runs in at the moment."""
        with self._change:
            return tuple(self._idle)
