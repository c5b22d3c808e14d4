"""Small videos with many kinds of streams, and an Upscaler that repeats pixels, so that results are easy to check."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sr_deploy.engines.nearest import NearestEngine
from sr_deploy.upscale import Upscaler
from sr_deploy.video.job import VideoOptions, VideoResult, upscale_video

av = pytest.importorskip("av", reason="PyAV is not installed")

VARIABLE = [0, 512, 1024, 2560, 3072, 3100, 4608, 6144, 6656, 7168, 9216, 9728]
"""Timestamps in 1/15360 s of a video with a variable frame rate."""
TEXTS = [(0.1, 0.2, "Hello"), (0.4, 0.1, "größe 大")]


def frames_of(path: Path, pixel_format: str | None = None) -> list[np.ndarray]:
    """The decoded frames."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format=pixel_format) for frame in container.decode(video=0)]


def times_of(path: Path) -> list[Fraction]:
    """Return the display time of each frame in seconds after the first."""
    with av.open(str(path)) as container:
        times = [Fraction(frame.pts) * frame.time_base for frame in container.decode(video=0)]
    return [time - times[0] for time in times]


def make_video(
    path: Path,
    pts: list[int] = VARIABLE,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    size: tuple[int, int] = (32, 24),
    sound: bool = False,
    subtitles: str | None = None,
    chapters: bool = False,
    attachment: bool = False,
    tags: dict[str, int] | None = None,
    options: dict[str, str] | None = None,
    matrix: tuple[int, ...] | None = None,
) -> Path:
    """Write a video of moving noise; `subtitles` is the name of a codec."""
    container = av.open(str(path), "w")
    video = container.add_stream(codec, rate=30, options=options or {})
    video.width, video.height, video.pix_fmt = *size, pixel_format
    video.time_base = video.codec_context.time_base = Fraction(1, 15360)
    for name, value in (tags or {}).items():
        setattr(video.codec_context, name, value)
    if matrix is not None:
        video.set_display_matrix(matrix)
    audio: Any = container.add_stream("aac", rate=44100, layout="mono") if sound else None
    if audio is not None:
        audio.metadata["language"] = "deu"
    texts: Any = container.add_mux_stream(subtitles) if subtitles else None
    if texts is not None:
        texts.time_base = Fraction(1, 1000)
        texts.metadata["language"] = "fra"
    if chapters:
        container.metadata["title"] = "A film"
        base = Fraction(1, 1000)
        container.set_chapters(
            [
                {"id": 1, "start": 0, "end": 300, "time_base": base, "metadata": {"title": "One"}},
                {"id": 2, "start": 300, "end": 600, "time_base": base, "metadata": {"title": "Zwei"}},
            ]
        )
    if attachment:
        container.add_attachment("letters.ttf", "application/x-truetype-font", b"no font at all")
    with container:
        _fill(container, video, audio, texts, pts, subtitles)
    return path


def _fill(container: Any, video: Any, audio: Any, texts: Any, pts: list[int], subtitles: str | None) -> None:
    for frame in _noise(video, pts):
        container.mux(video.encode(frame))
    container.mux(video.encode(None))
    if audio is not None:
        for frame in _tone(pts[-1] / 15360 + 0.05):
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    for start, length, text in TEXTS if texts is not None else ():
        data = text.encode()
        packet = av.Packet(len(data).to_bytes(2, "big") + data if subtitles == "mov_text" else data)
        packet.stream, packet.time_base = texts, Fraction(1, 1000)
        packet.pts = packet.dts = round(start * 1000)
        packet.duration = round(length * 1000)
        container.mux(packet)


def _noise(video: Any, pts: list[int]) -> Iterator[Any]:
    rng = np.random.default_rng(5)
    base = rng.integers(0, 256, (video.height, video.width, 3), np.uint8)
    for i, stamp in enumerate(pts):
        frame = av.VideoFrame.from_ndarray(np.roll(base, i, 1), format="rgb24").reformat(format=video.pix_fmt)
        frame.pts, frame.time_base = stamp, Fraction(1, 15360)
        yield frame


def _tone(seconds: float) -> Iterator[Any]:
    for start in range(0, int(seconds * 44100), 1024):
        wave = np.sin(np.arange(start, start + 1024) / 20).astype(np.float32)[None] * 0.2
        frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 44100, start, Fraction(1, 44100)
        yield frame


def with_sound(target: Path, codec: str, *, rate: int = 44100, video: str | None = None) -> Path:
    """Write a video with silence in a codec into `target`; `video` is the codec of the video."""
    with av.open(str(target), "w") as container:
        stream = container.add_stream(video or "libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        sound = container.add_stream(codec, rate=rate, layout="stereo")
        sound.codec_context.bit_rate = 96000
        for n in range(12):
            container.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.full((96, 96), 9 * n + 20, np.uint8), "yuv420p"))
            )
        container.mux(stream.encode(None))
        resampler = av.AudioResampler(sound.codec_context.format, "stereo", rate)
        for start in range(0, rate // 2, 1024):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for part in resampler.resample(frame):
                container.mux(sound.encode(part))
        container.mux(sound.encode(None))
    return target


class Counting(NearestEngine):
    """Upscaler that repeats pixels, counts the frames, and fails at a given frame."""

    def __init__(self) -> None:
        super().__init__(2)
        self.calls = 0
        self.fails_at: int | None = None
        self.error: BaseException = KeyboardInterrupt()

    def run(self, batch: Any, out: Any = None) -> Any:
        if self.calls == self.fails_at:
            raise self.error
        self.calls += 1
        return super().run(batch, out)


@pytest.fixture
def engine() -> Counting:
    return Counting()


@pytest.fixture
def upscale(engine: Counting, tmp_path: Path) -> Callable[..., VideoResult]:
    """Upscale a video twice: `upscale(source, target, part_frames=4)`."""
    model = tmp_path / "model.onnx"
    model.write_bytes(b"what makes the results: these bytes")

    def call(source: Path, target: Path, *, watcher: Any = None, **options: Any) -> VideoResult:
        settings = VideoOptions(
            **{"streams": 1, **options}
        )  # one at a time, so that the failing frame is known
        return upscale_video(source, target, Upscaler(engine), model=model, options=settings, watcher=watcher)

    return call


class Said:
    """Listener that stores the calls it gets."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.total: int | None = None
        self.first = self.done = 0

    def say(self, message: str) -> None:
        self.notes.append(message)

    def begin(self, total: int | None, first: int = 0) -> None:
        self.total, self.first = total, first

    def frame(self, count: int) -> None:
        self.done = count
