"""Deinterlacing: one whole frame for each frame of two fields, by libav's bwdif.

A frame is made from itself, the one before it and the one after it, so a video is decoded from its start, and one frame
beyond the last that is needed.
"""

from collections import deque
from collections.abc import Iterator
from fractions import Fraction

import av
from av.filter import Graph
from av.video.frame import VideoFrame

_TIME_BASE = Fraction(1, 1000)  # of numbers that only ascend
# one frame for each, all of them, and the field order by each frame's own flag, which headers often contradict
_BWDIF = "mode=send_frame:parity=auto:deint=all"

_Times = deque[tuple[int | None, Fraction | None, int]]  # pts, time base and duration of frames that are in the filter


def deinterlaced(decoded: Iterator[VideoFrame]) -> Iterator[VideoFrame]:
    """Yield a frame for each that is decoded, with its time. A change of size or format begins anew.

    Raises:
        av.FFmpegError: what decoding raises.
    """
    graph, shape = Graph(), ("", 0, 0)
    waiting: _Times = deque()
    for number, frame in enumerate(decoded):
        if shape != (shape := (frame.format.name, frame.width, frame.height)):
            yield from _flushed(graph, waiting)
            graph = _graph_for(frame)
        waiting.append((frame.pts, frame.time_base, frame.duration))
        frame.pts, frame.time_base = number, _TIME_BASE
        graph.vpush(frame)
        yield from _pulled(graph, waiting)
    yield from _flushed(graph, waiting)


def _graph_for(frame: VideoFrame) -> Graph:
    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=_TIME_BASE)
    bwdif, sink = graph.add("bwdif", _BWDIF), graph.add("buffersink")
    source.link_to(bwdif)
    bwdif.link_to(sink)
    graph.configure()
    return graph


def _flushed(graph: Graph, waiting: _Times) -> Iterator[VideoFrame]:
    if waiting:
        graph.vpush(None)
        yield from _pulled(graph, waiting)


def _pulled(graph: Graph, waiting: _Times) -> Iterator[VideoFrame]:
    """Yield the frames that are ready, in order, each with the time of the one that it is made of."""
    while waiting:
        try:
            frame = graph.vpull()
        except (av.error.BlockingIOError, av.error.EOFError):  # it needs the next frame; there is none
            return
        frame.pts, frame.time_base, frame.duration = waiting.popleft()
        yield frame
