"""Elements of the report: text never becomes markup."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sr_deploy.bench.report.markup import Markup, escape, grouped_table, join, number, table, tag


class Reader(HTMLParser):
    """Collects the elements with their attributes, and the text, as a browser sees them."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


PRINTABLE = st.text(st.characters(exclude_categories=("Cc", "Cs", "Cf", "Cn")))


@given(PRINTABLE)
def test_any_text_is_shown_as_it_is_and_is_no_markup(text: str) -> None:
    read = Reader(tag("p", text, title=text))
    assert read.elements == [("p", {"title": text})]
    assert read.text == text


@given(st.text())
def test_no_text_at_all_makes_an_element_or_breaks_the_encoding(text: str) -> None:
    page = tag("p", text, title=text)
    assert [name for name, _ in Reader(page).elements] == ["p"]
    page.encode("utf-8")


@pytest.mark.parametrize("text", ["a\x00b", "a\u202eb", "a\ud800b", "a\x1bb"])
def test_what_cannot_be_shown_or_turns_the_text_around_is_replaced(text: str) -> None:
    assert escape(text) == "a\ufffdb"


def test_markup_is_not_escaped_twice_and_nothing_is_nothing() -> None:
    assert join([tag("b", "<"), None, ["&", 1]]) == "<b>&lt;</b>&amp;1"


def test_the_name_of_an_element_or_attribute_cannot_come_from_data() -> None:
    with pytest.raises(ValueError, match="not the name of an element"):
        tag("img src=x onerror=alert(1)")
    with pytest.raises(ValueError, match="not the name of an attribute"):
        tag("p", **{"a onclick=x": "y"})


def test_attributes_that_are_none_or_false_are_left_out() -> None:
    assert tag("details", class_=None, open=False) == "<details></details>"
    assert tag("details", open=True, stroke_width=1.5) == '<details open stroke-width="1.5"></details>'


@given(st.floats(-1e6, 1e6))
def test_a_length_has_no_exponent_and_is_right_to_a_hundredth(value: float) -> None:
    text = number(value)
    assert "e" not in text
    assert text != "-0"
    assert float(text) == pytest.approx(value, abs=0.00501)


def test_a_table_says_what_its_rows_and_columns_are() -> None:
    read = Reader(table(("size", "fps"), [("360p", "40")], caption="Rates"))
    scopes = [attributes["scope"] for name, attributes in read.elements if name == "th"]
    assert scopes == ["col", "col", "row"]
    assert next(a["data-label"] for name, a in read.elements if name == "td") == "fps"
    assert next(a["aria-label"] for name, a in read.elements if name == "div") == "Rates"


def test_a_table_with_a_row_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        table(("size", "fps"), [("360p",)], caption="Rates")


def test_groups_of_rows_stand_under_their_name_across_all_columns() -> None:
    read = Reader(grouped_table(("size", "fps"), [("one & two", [("360p", "40")])], caption=Markup("")))
    over = next(a for name, a in read.elements if a.get("scope") == "rowgroup")
    assert over["colspan"] == "2"
    assert "one & two" in read.text
