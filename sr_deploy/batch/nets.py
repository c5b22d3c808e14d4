"""The two nets of `--model auto`: the clean net and the photo net of one scale, and the choice between them.

`sr_deploy.images.condition` decides about a picture; this module opens the nets, the second one when the first picture
needs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, NamedTuple

from sr_deploy.images.condition import RULE_VERSION, Condition, condition_by_file, condition_of
from sr_deploy.images.image import Image

if TYPE_CHECKING:
    from sr_deploy.upscale import Upscaler

Kind = Literal["clean", "photo"]
_PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".avif")
"""Suffixes of files that the rule gives to the photo net by their header, mostly."""


class Choice(NamedTuple):
    """The net that was chosen for a picture, and why."""

    kind: Kind
    """Kind of the net."""
    model: str
    """Name of the net, or of its form with `--fast`."""
    reason: str
    """The reason in a few words, such as "JPEG of quality 75"."""

    def __str__(self) -> str:
        return f"{self.model} ({self.reason})"


class AutoNets:
    """The clean and the photo net of one scale. `run_jobs` takes it in place of an Upscaler.

    `names` are the names or files of the nets for "clean" and "photo". `open_net` opens one of them; it is called at
    most once for each, also if it fails. `first` is the kind of the net that is opened at once. Thread safe. Close it,
    or use it in a `with` statement.
    """

    def __init__(
        self, names: Mapping[Kind, str], open_net: Callable[[Kind], Upscaler], first: Kind = "clean"
    ) -> None:
        self.names = {kind: Path(name).name.removesuffix(".onnx") for kind, name in names.items()}
        self._open_net = open_net
        self._opened: dict[Kind, Upscaler] = {}
        self._failed: dict[Kind, Exception] = {}
        self._lock = threading.Lock()
        self.upscaler = self.net(first)
        """The net that was opened first, whose spec and backend stand for both."""

    def choose(self, image: Image) -> Choice:
        """Choose the net for a picture that was read. Takes about a millisecond."""
        return self._choice(condition_of(image))

    def foresee(self, format: str, quality: int | None, lossless: bool) -> Choice | None:
        """The choice that the file's header alone determines; None if the pixels decide."""
        found = condition_by_file(format, quality, lossless)
        return None if found is None else self._choice(found)

    def net(self, kind: Kind) -> Upscaler:
        """The opened net of this kind. Raises the errors of opening it, and the same error for each later call."""
        with self._lock:
            if kind in self._failed:  # opening again would take as long for every picture, and fail again
                raise self._failed[kind].with_traceback(None)
            if kind not in self._opened:
                try:
                    self._opened[kind] = self._open_net(kind)
                except Exception as error:
                    self._failed[kind] = error
                    raise
            return self._opened[kind]

    def close(self) -> None:
        """Close the nets that were opened."""
        for upscaler in self._opened.values():
            upscaler.close()

    def __enter__(self) -> AutoNets:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __str__(self) -> str:
        return f"{self.names['clean']} or {self.names['photo']}"

    def _choice(self, condition: Condition) -> Choice:
        """The choice of the net for a condition."""
        return Choice(condition.kind, self.names[condition.kind], condition.reason)


def likely_kind(source: Path) -> Kind:
    """The kind of net that the picture at `source` mostly needs, by its name: only a guess that saves time."""
    return "photo" if source.suffix.lower() in _PHOTO_SUFFIXES else "clean"


def auto_digest(clean: str, photo: str, photo_backend: str) -> str:
    """The digest of a choice between two nets, from the digests of their files and the version of the rule.

    The photo net's backend is part of it, because records name that of the clean net only.
    """
    from hashlib import sha256

    return sha256(f"auto {RULE_VERSION} {clean} {photo} {photo_backend}".encode()).hexdigest()
