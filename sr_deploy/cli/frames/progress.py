"""The progress of `video` and `pipe`: frames done, rate and time left."""

from __future__ import annotations

import time
from types import TracebackType

from sr_deploy.cli.shared.progress import ProgressDisplay, clock


class FrameProgress:
    """Counts frames and shows them on stderr; it is a `sr_deploy.video.job.VideoListener`.

    Use it in a `with` statement. May be called from several threads.
    """

    def __init__(self, *, quiet: bool) -> None:
        self.frames = 0
        """Frames that are done, those of an earlier run included."""
        self._quiet = quiet
        self._display = ProgressDisplay("{task.fields[pace]}", quiet=quiet)
        self._start = time.monotonic()
        self._first = 0  # frames done by an earlier run
        self._total: int | None = None

    def __enter__(self) -> FrameProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.stop()

    def say(self, message: str) -> None:
        """Print a note for the user, unless quiet."""
        if not self._quiet:
            self._display.print(f"note: {message}")

    def begin(self, total: int | None, first: int = 0) -> None:
        """Start to count, and restart the clock. `total` is the number of frames of the source, None if it is
        unknown. `first` frames are done by an earlier run; the rate leaves them out."""
        self.frames = self._first = first
        self._total = total
        self._start = time.monotonic()

    def frame(self, count: int) -> None:
        """Show that `count` frames are done."""
        self.frames = count
        pace = self._pace()
        self._display.show(count, self._total, line=pace, pace=pace)

    @property
    def rate(self) -> float:
        """Frames per second since `begin`."""
        return (self.frames - self._first) / max(time.monotonic() - self._start, 1e-9)

    @property
    def seconds(self) -> float:
        """Seconds since `begin`."""
        return time.monotonic() - self._start

    def _pace(self) -> str:
        """Frames, rate and time left in words, such as "310/1000 frames, 10.0/s, 0:01:09 left". Without a
        total there is no time left, and neither if the file holds more frames than its header claims."""
        if self._total is None or self.frames > self._total:
            return f"{self.frames} frames, {self.rate:.1f}/s"
        left = (self._total - self.frames) / max(self.rate, 1e-9)
        return f"{self.frames}/{self._total} frames, {self.rate:.1f}/s, {clock(left)} left"
