"""HTML and SVG elements, made so that no text can become markup: a string is escaped, only a `Markup` is not.

It knows no plot and no result. Everything the report holds goes through `tag`.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence

_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)
"""Control characters, those that turn the direction of what follows, and halves of surrogate pairs."""
_NAME = re.compile("[A-Za-z][A-Za-z0-9-]*")
_VOID = frozenset({"meta", "br"})


class Markup(str):
    """Text that is markup already, and whose parts were escaped."""


Child = str | int | float | None | Iterable["Child"]
"""What an element may hold: text, markup, numbers, None (nothing), or any nesting of these."""
Value = str | int | float | bool | None
"""An attribute's value; None and False leave it out, True gives it without a value."""


def escape(text: object) -> Markup:
    """`text` as HTML shows it, also within an attribute's quotes; what cannot be shown becomes U+FFFD."""
    return Markup(html.escape(_UNPRINTABLE.sub("\ufffd", str(text)), quote=True))


def number(value: float) -> str:
    """A length for an attribute: two decimals at most, no exponent, no minus zero."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def tag(name: str, /, *children: Child, **attributes: Value) -> Markup:
    """An element. `class_` is the attribute class, and `stroke_width` is stroke-width.

    Raises ValueError for a name of an element or attribute that is none: names never come from data.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is not the name of an element")
    start = f"<{name}{''.join(_attribute(key, value) for key, value in attributes.items())}>"
    return Markup(start if name in _VOID else f"{start}{join(children)}</{name}>")


def _attribute(key: str, value: Value) -> str:
    key = key.rstrip("_").replace("_", "-")
    if not _NAME.fullmatch(key):
        raise ValueError(f"{key!r} is not the name of an attribute")
    if value is None or value is False:
        return ""
    if value is True:
        return f" {key}"
    return f' {key}="{number(value) if isinstance(value, (int, float)) else escape(value)}"'


def join(children: Child) -> Markup:
    """Children in one piece; what is text is escaped."""
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
    """A table that scrolls by itself where the screen is too narrow; the first cell of a row names the row.

    With `class_` "stack" a narrow screen shows the cells of a row below its name; the roles say what browsers
    forget of a table that is laid out so. A header without any word is left out.
    """
    return grouped_table(header, [(None, rows)], caption=caption, class_=class_)


def grouped_table(
    header: Sequence[Child],
    groups: Iterable[tuple[Child, Iterable[Sequence[Child]]]],
    *,
    caption: Child,
    class_: str = "",
) -> Markup:
    """As `table`, of groups of rows, each with what stands over it; None: nothing does."""
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
    if first:
        return tag("th", cell, scope="row", role="rowheader")
    return tag("td", cell, role="cell", data_label=_words(name))


def _words(child: Child) -> str:
    """The text of some markup, for an attribute."""
    return html.unescape(re.sub("<[^>]*>", "", join(child)))
