"""The page that shows pictures before and after, with a slider: one HTML file that asks no network for anything.

The page shows the files where they lie, by relative addresses. Pictures in formats that browsers do not show are
represented by their middle, which the page itself holds. `sr_deploy.batch.run` makes the results.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from sr_deploy.errors import OutputError, SrDeployError, UsageError
from sr_deploy.images.image import Image, cropped, encode_image, read_image
from sr_deploy.system.files import write_whole
from sr_deploy.system.output_folder import check_output_path
from sr_deploy.system.text import shown
from sr_deploy.version import __version__

_TEMPLATE = Path(__file__).with_name("compare.html")
_MARK = b'content="sr-deploy compare"'
"""Bytes by which a page of ours is known again. Only such a file is replaced."""
_SHOWN = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".avif")
"""Suffixes of the formats that all current browsers show."""
_PART = (640, 480)
"""Largest (width, height) in pixels of the middle of a result that a browser does not show."""
_MOST_EMBEDDED = 2 << 20
"""Bytes of all embedded parts, as text, so that the page stays below 3 MB."""
_LARGEST_READ = 200 << 20
"""Bytes of the largest file that is read for an embedded part."""


class Pair(NamedTuple):
    """A picture and its result."""

    before: Path
    after: Path


def check_page(page: Path) -> None:
    """Raise an error if `page` cannot be written: UsageError for another suffix, OutputError for a file of others."""
    if page.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"--compare writes an HTML page, got {page}; give a name such as compare.html")
    if page.is_dir():
        raise OutputError(f"cannot write {page}: it is a folder; give a name such as compare.html")
    try:
        ours = not os.path.lexists(page) or _MARK in page.read_bytes()[:1000]
    except OSError as error:
        raise OutputError(f"cannot write {page}: {error.strerror or error}; choose another name") from error
    if not ours:
        raise OutputError(
            f"cannot write {page}: it exists and is no page of comparisons; choose another name"
        )
    folder = next(parent for parent in page.absolute().parents if os.path.lexists(parent))
    check_output_path(folder / page.name, overwrite=True)  # its folder may be one that the run makes


def write_page(page: Path, pairs: Sequence[Pair], model: str) -> None:
    """Write the page about `pairs`, which were made by `model`. Raises OutputError."""
    entries = list(_entries(page, pairs))
    count = f"{len(entries)} picture{'' if len(entries) == 1 else 's'}"
    links = ", ".join(
        f'<a href="{html.escape(_address(page, pair.before))}">{html.escape(shown(pair.before.name))}</a> '
        f'and <a href="{html.escape(_address(page, pair.after))}">its result</a>'
        for pair in pairs[:100]
    )
    # "<" as an escape: a file name must not end the script element
    data = json.dumps(entries).replace("<", "\\u003c")
    values = {
        "COUNT": count,
        "VERSION": __version__,
        "MODEL": html.escape(model),
        "LINKS": links,
        "PAIRS": data,
    }
    # in one pass, because names of files may contain the names of the fields
    text = re.sub(r"\$([A-Z]+)", lambda field: values[field[1]], _TEMPLATE.read_text(encoding="utf-8"))
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
        write_whole(page, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise OutputError(f"cannot write {page}: {error.strerror or error}; choose another name") from error


def _entries(page: Path, pairs: Sequence[Pair]) -> Iterator[dict[str, Any]]:
    """Yield what the page knows of each pair, as JSON values."""
    room = _MOST_EMBEDDED
    for pair in pairs:
        entry = {
            "name": shown(pair.before.name),
            "before": _address(page, pair.before),
            "after": _address(page, pair.after),
        }
        if not all(path.suffix.lower() in _SHOWN for path in pair):
            part = _embedded(pair) if room > 0 else {}
            room -= sum(map(len, part.values()))
            entry |= {**part, "part": "yes"} if part else {}
        yield entry


def _address(page: Path, path: Path) -> str:
    """The address of a file, relative to the page where that is possible (on Windows not between drives)."""
    try:
        relative = os.path.relpath(os.path.abspath(path), os.path.abspath(page.parent))
    except ValueError:
        return Path(os.path.abspath(path)).as_uri()
    return quote(os.fsencode(Path(relative).as_posix()))  # a name may be no UTF-8


def _embedded(pair: Pair) -> dict[str, str]:
    """The middle of both pictures as addresses that hold their data; empty if that is not possible."""
    try:
        if max(path.stat().st_size for path in pair) > _LARGEST_READ:
            return {}
        small, large = read_image(pair.before), read_image(pair.after)
        wide, tall = (large.width / small.width, large.height / small.height)
        width = min(small.width, max(1, int(_PART[0] / wide)))
        height = min(small.height, max(1, int(_PART[1] / tall)))
        left, top = (small.width - width) // 2, (small.height - height) // 2
        parts = {
            "before": cropped(small, left, top, width, height),
            "after": cropped(
                large, round(left * wide), round(top * tall), round(width * wide), round(height * tall)
            ),
        }
        return {name: _data_address(part) for name, part in parts.items()}
    except (SrDeployError, OSError):
        return {}


def _data_address(image: Image) -> str:
    """An address that holds the picture itself, as WebP."""
    data = encode_image(image, "webp", quality=90, strip=True)
    return f"data:image/webp;base64,{base64.b64encode(data).decode('ascii')}"
