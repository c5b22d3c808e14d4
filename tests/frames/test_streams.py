"""Frames in byte streams: complete and damaged, raw and y4m."""

from __future__ import annotations

import io

import numpy as np
import pytest

from sr_deploy.errors import InputError, UsageError
from sr_deploy.frames.layout import LAYOUTS
from sr_deploy.frames.streams import Geometry, read_frames, read_header, write_frame
from sr_deploy.frames.y4m import Header, parse_header


class Drops(io.BytesIO):
    """Stream that reads and writes at most seven bytes at a time, as a pipe may."""

    def readinto(self, buffer):
        return super().readinto(memoryview(buffer)[:7])

    def write(self, data):
        return super().write(bytes(data)[:7])


SMALL = Geometry(width=4, height=3, layout=LAYOUTS["rgb24"])


def test_frames_are_read_whole_however_they_arrive():
    data = bytes(range(72))
    first, second = (planes[0] for planes in read_frames(Drops(data), SMALL))
    assert (first.tobytes(), second.tobytes()) == (data[:36], data[36:])


def test_a_short_last_frame_says_how_many_bytes_are_missing():
    frames = read_frames(io.BytesIO(bytes(50)), SMALL)
    next(frames)
    with pytest.raises(InputError, match=r"frame 2 is cut short: 22 of its 36 bytes are missing"):
        next(frames)


def test_y4m_frames_need_their_mark_and_their_bytes():
    whole = b"FRAME\n" + bytes(36) + b"FRAME Ip\n" + bytes(36)
    assert len(list(read_frames(Drops(whole), SMALL, marked=True))) == 2
    with pytest.raises(InputError, match="expected the word FRAME before frame 2"):
        list(read_frames(io.BytesIO(b"FRAME\n" + bytes(40)), SMALL, marked=True))
    with pytest.raises(InputError, match="frame 1 is cut short: 36 of its 36"):
        list(read_frames(io.BytesIO(b"FRAME\n"), SMALL, marked=True))


def test_what_is_written_is_read_again():
    layout = LAYOUTS["yuv420p"]
    data = np.arange(layout.frame_bytes(3, 5), dtype=np.uint8)
    stream = Drops()
    for _ in range(2):
        write_frame(stream, layout.planes(data, 3, 5), marked=True)
    stream.seek(0)
    frames = list(read_frames(stream, Geometry(width=5, height=3, layout=layout), marked=True))
    assert [b"".join(plane.tobytes() for plane in planes) for planes in frames] == [data.tobytes()] * 2


@pytest.mark.parametrize(
    ("line", "layout", "siting", "range"),
    [
        (b"YUV4MPEG2 W640 H360 F30000:1001 Ip A1:1 C420jpeg XYSCSS=420JPEG", "yuv420p", "center", None),
        (b"YUV4MPEG2 W640 H360 F25:1 C420mpeg2 XCOLORRANGE=LIMITED", "yuv420p", "left", "limited"),
        (b"YUV4MPEG2 W640 H360 F25:1 C420paldv XCOLORRANGE=FULL", "yuv420p", "topleft", "full"),
        (b"YUV4MPEG2 H360 W640 C422p10 XYSCSS=422P10", "yuv422p10le", None, None),
        (b"YUV4MPEG2 W640 H360", "yuv420p", "center", None),
        (b"YUV4MPEG2 W640 H360 Cmono", "gray8", None, None),
    ],
)
def test_a_y4m_header_is_read_and_written_without_loss(line, layout, siting, range):
    header = parse_header(line)
    assert (header.width, header.height, header.layout.name) == (640, 360, layout)
    assert (header.siting, header.range) == (siting, range)
    assert parse_header(header.to_line()) == header
    assert read_header(Drops(header.to_line() + b"FRAME\n")) == header


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"RIFF and so on\n", "begins with b'RIFF and '"),
        (b"YUV4MPEG2 W0 H3\n", "W'0', expected a size"),
        (b"YUV4MPEG2 W3\n", "H'', expected a size"),
        (b"YUV4MPEG2 W3 H3 C411\n", "unknown chroma format C411"),
        (b"", "begins with b''"),
    ],
)
def test_a_header_that_cannot_be_used_is_refused_in_words(line, message):
    with pytest.raises(InputError, match=message):
        read_header(io.BytesIO(line))


def test_y4m_has_no_name_for_interleaved_chroma():
    with pytest.raises(UsageError, match="y4m cannot hold nv12"):
        Header(width=2, height=2, layout=LAYOUTS["nv12"]).to_line()
