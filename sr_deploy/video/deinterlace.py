"""Turn interlaced frames into progressive ones, with a filter of FFmpeg."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sr_deploy.video.pyav import Frame, pyav

if TYPE_CHECKING:
    from sr_deploy.video.source import TimedFrame, VideoInfo

_FILTER, _OPTIONS = "bwdif", "mode=send_frame:deint=all"
"""Filter and its options: a frame for every frame, whether or not it is marked as interlaced."""


def deinterlaced(facts: VideoInfo, timed: Iterator[TimedFrame]) -> Iterator[TimedFrame]:
    """Yield the frames without interlacing, each at the time it had. The filter holds one frame back."""
    waiting: deque[TimedFrame] = deque()
    graph = None
    for one in timed:
        graph = graph or _graph(facts, one.frame)
        waiting.append(one)
        graph.vpush(one.frame)
        yield from _ready(graph, waiting)
    if graph is not None:
        graph.vpush(None)
        yield from _ready(graph, waiting)


def _graph(facts: VideoInfo, frame: Frame) -> Any:
    """Return a graph with the filter. Keep a reference to it; its nodes hold none (PyAV 18.1)."""
    graph = pyav().filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=facts.time_base
    )
    sink = graph.add("buffersink")
    graph.link_nodes(source, graph.add(_FILTER, _OPTIONS), sink).configure()
    return graph


def _ready(graph: Any, waiting: deque[TimedFrame]) -> Iterator[TimedFrame]:
    """Yield the frames that the filter has finished, with their times."""
    av = pyav()
    while waiting:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        yield replace(waiting.popleft(), frame=frame)
