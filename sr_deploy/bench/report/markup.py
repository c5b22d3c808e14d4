"""Make HTML and SVG elements so that no text can become markup.

Strings are escaped, and only `Markup` is not. Everything in the report goes through `tag`. The module knows
neither plots nor results.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, characters that change the direction of writing, and halves of surrogate pairs."""
_NAME = re.compile("[A-Za-z][A-Za-z0-9-]*")
_VOID = frozenset({"meta", "br"})  # elements of the report without an end tag


class Markup(str):
    """Text that is already markup; its parts were escaped when it was made."""


Child = str | int | float | None | Iterable["Child"]
"""The content of an element: text, markup, numbers, None (nothing), or any nesting of these."""
Value = str | int | float | bool | None
"""The value of an attribute; None and False omit the attribute, True gives it without a value."""


def escape(text: object) -> Markup:
    """Escape `text` for HTML, also inside quotes; characters that cannot be shown become U+FFFD."""
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True))


def number(value: float) -> str:
    """Format a length for an attribute: at most two decimals, no exponent, no minus zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def tag(name: str, /, *children: Child, **attributes: Value) -> Markup:
    """Make an element. `class_` becomes the attribute class, and `stroke_width` becomes stroke-width. Raises
    ValueError for an invalid name of an element or attribute; names must never come from data."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of an element")
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Markup(start if name in _VOID else f"{start}{join(children)}</{name}>")


def _attribute(key: str, value: Value) -> str:
    """An attribute with a leading space, or "". Raises ValueError for an invalid name."""
    key = key.rstrip("_").replace("_", "-")
    if not _NAME.fullmatch(key):
        raise ValueError(f"{key!r} is not the name of an attribute")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    return f' {key}="{number(value) if isinstance(value, (int, float)) else escape(value)}"'


def join(children: Child) -> Markup:
    """Join children into one piece of markup; text is escaped."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, (str, int, float)):
        return escape(children)
    return Markup("".join(join(child) for child in children))


def table(
    header: Sequence[Child],
    rows: Iterable[Sequence[Child]],
    *,
    caption: Child,
    class_: str = "",
) -> Markup:
    """Make a table that scrolls by itself if the screen is too narrow. The first cell of a row names the row.

    With `class_` "stack" a narrow screen shows the cells of a row below its name. The ARIA roles are needed
    because browsers drop the meaning of a table with such a layout. A header without any text is omitted.
    """
    return grouped_table(header, [(None, rows)], caption=caption, class_=class_)


def grouped_table(
    header: Sequence[Child],
    groups: Iterable[tuple[Child, Iterable[Sequence[Child]]]],
    *,
    caption: Child,
    class_: str = "",
) -> Markup:
    """Like `table`, for groups of rows with a heading each; None is no heading."""
    head = tag("tr", [tag("th", cell, scope="col", role="columnheader") for cell in header], role="row")
    parts = [
        tag("caption", tag("span", caption)),
        tag("thead", head, role="rowgroup") if any(header) else None,
        *(_body(header, name, members) for name, members in groups),
    ]
    return tag(
        "div",
        tag("table", parts, role="table"),
        class_=f"scroll {class_}".strip(),
        tabindex="0",
        role="group",
        aria_label=_words(caption),
    )


def _body(header: Sequence[Child], name: Child, rows: Iterable[Sequence[Child]]) -> Markup:
    """The rows of one group; raises ValueError for a row that is not as long as the header."""
    over = tag(
        "th", tag("span", name), colspan=len(header), scope="rowgroup", role="rowheader", class_="over"
    )
    return tag(
        "tbody",
        tag("tr", over, role="row") if name else None,
        [
            tag(
                "tr",
                [_cell(n, c, first=i == 0) for i, (n, c) in enumerate(zip(header, row, strict=True))],
                role="row",
            )
            for row in rows
        ],
        role="rowgroup",
    )


def _cell(name: Child, cell: Child, *, first: bool) -> Markup:
    """A cell; its `data-label` names the column on narrow screens, where the header is hidden."""
    if first:
        return tag("th", cell, scope="row", role="rowheader")
    return tag("td", cell, role="cell", data_label=_words(name))


def _words(child: Child) -> str:
    """The text of some markup without tags, for an attribute."""
    return html.unescape(re.sub("<[^>]*>", "", join(child)))
