"""Dynamic HDR metadata is told, and Dolby Vision that only its own decoder shows rightly is refused before the work."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from sr_deploy.errors import InputError
from sr_deploy.video.encoder import EncodeOptions
from tests.video.conftest import Said, av, make_video

TEN_BITS = {
    "codec": "libx265",
    "pixel_format": "yuv420p10le",
    "size": (96, 64),
    "options": {"x265-params": "log-level=none"},
}


def remade(source: Path, target: Path, change: Callable[[bytes], bytes] = lambda data: data) -> Path:
    """Copy a video with changed packets."""
    with av.open(str(source)) as before, av.open(str(target), "w") as after:
        made = after.add_stream_from_template(before.streams.video[0], opaque=True)
        for packet in before.demux(video=0):
            if packet.size:
                copy = av.Packet(change(bytes(packet)))
                copy.stream, copy.time_base, copy.is_keyframe = made, packet.time_base, packet.is_keyframe
                copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
                after.mux(copy)
    return target


def hdr10_plus() -> bytes:
    """One NAL unit of HEVC with the metadata of SMPTE ST 2094-40 for one window, after its length."""
    fields = [
        (1, 2),
        (400, 27),
        (0, 1),
        *[(30000, 17)] * 3,
        (9000, 17),
        (0, 4),
        (100, 10),
        (0, 1),
        (0, 1),
        (0, 1),
    ]
    bits = "".join(f"{value:0{width}b}" for value, width in fields)
    body = int(bits.ljust(-len(bits) // 8 * -8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    payload = (
        bytes([0xB5, 0x00, 0x3C, 0x00, 0x01, 4, 1]) + body
    )  # country, provider, its code, application, version
    message = bytes([4, len(payload)]) + payload + b"\x80"
    unit = bytes([39 << 1, 1])
    for byte in message:  # no three bytes of a unit may look like a start code
        unit += b"\x03" if unit.endswith(b"\0\0") and byte <= 3 else b""
        unit += bytes([byte])
    return struct.pack(">I", len(unit)) + unit


def with_dolby_vision(source: Path, target: Path, profile: int, compatible: int) -> Path:
    """Add the box with a configuration record of Dolby Vision to the video of an MP4 file."""
    record = bytes([1, 0, profile << 1, 4 << 3 | 0b101, compatible << 4]) + bytes(19)
    box = struct.pack(">I4s", 32, b"dvcC") + record
    data = bytearray(source.read_bytes())
    place = data.index(b"hvc1") if b"hvc1" in data else data.index(b"hev1")
    start = place - 4
    end = start + struct.unpack_from(">I", data, start)[0]
    data[end:end] = box
    for name in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd", bytes(data[place : place + 4])):
        size = data.rindex(name, 0, place + 4) - 4
        struct.pack_into(">I", data, size, struct.unpack_from(">I", data, size)[0] + len(box))
    target.write_bytes(data)
    return target


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return make_video(tmp_path / "in.mp4", [0, 512, 1024], **TEN_BITS)


def test_hdr10_plus_is_told(upscale, source, tmp_path):
    said = Said()
    path = remade(source, tmp_path / "plus.mp4", lambda data: hdr10_plus() + data)
    upscale(path, tmp_path / "out.mkv", encode=EncodeOptions(preset="ultrafast"), watcher=said)
    assert said.notes == ["its HDR10+ metadata are left out: libx265 does not write them here"]


def test_dolby_vision_over_hdr10_is_told(upscale, source, tmp_path):
    said = Said()
    path = with_dolby_vision(source, tmp_path / "dv.mp4", profile=8, compatible=1)
    upscale(path, tmp_path / "out.mkv", encode=EncodeOptions(preset="ultrafast"), watcher=said)
    assert said.notes == ["its Dolby Vision metadata are left out: libx265 does not write them here"]


def test_dolby_vision_without_a_compatible_base_layer_is_refused(upscale, engine, source, tmp_path):
    path = with_dolby_vision(source, tmp_path / "dv.mp4", profile=5, compatible=0)
    with pytest.raises(InputError, match=r"its colours are those of Dolby Vision profile 5, which only"):
        upscale(path, tmp_path / "out.mkv")
    assert engine.calls == 0
