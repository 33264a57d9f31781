"""What becomes of fields that another engine has nothing for."""

import pytest
from msgspec import Raw

from pointsman.apis.fields import Fate, Field, Table, ignored, refused, sort_out, translated
from pointsman.errors import INVALID_PARAMETER, RouterError

TABLE: Table = {
    "kept": translated("as it is"),
    "lost": ignored("", b"0", b'"auto"'),
    "barred": refused("is not possible here", b"1"),
}


def told(**fields: bytes) -> tuple[str, ...]:
    return sort_out({name: Raw(raw) for name, raw in fields.items()}, TABLE)


def test_a_row_says_what_is_done() -> None:
    """Three fates, each with its note and the values that ask for nothing."""
    assert TABLE["kept"] == Field(Fate.TRANSLATED, "as it is")
    assert TABLE["lost"] == Field(Fate.IGNORED, "", (b"0", b'"auto"'))
    assert TABLE["barred"] == Field(Fate.REFUSED, "is not possible here", (b"1",))


@pytest.mark.parametrize("raw", [b"null", b"false", b"0", b'"auto"'])
def test_a_value_that_asks_for_nothing_is_not_told(raw: bytes) -> None:
    """Clients send every field they know; null and false are harmless anywhere, some values in a row."""
    assert told(lost=raw, kept=raw) == ()


def test_what_is_ignored_is_told_in_the_clients_order() -> None:
    """With fields that the table does not know, and without those that keep their meaning."""
    assert told(other=b"1", kept=b"1", lost=b"7", also=b"{}") == ("other", "lost", "also")
    assert told(lost=b"0.0") == ("lost",)  # harmless are the values that stand there, and no others


def test_what_is_refused_is_named() -> None:
    """With the reason of its row, unless the value asks for nothing."""
    assert told(barred=b"1") == told(barred=b"null") == told(barred=b"false") == ()
    with pytest.raises(RouterError) as caught:
        told(lost=b"7", barred=b"2")
    assert (caught.value.kind, caught.value.param) == (INVALID_PARAMETER, "barred")
    assert caught.value.message == "`barred` is not possible here."


@pytest.mark.parametrize("name", ["x\r\nset-cookie", "a b", "ש", "", "x" * 65, 'a"b', "a,b", "a;b"])
def test_no_name_can_break_a_header(name: str) -> None:
    """What is told stands in a header: names of letters, digits, dots, dashes and underlines alone."""
    assert sort_out({name: Raw(b"1"), "fine-1.x_Y": Raw(b"1")}, TABLE) == ("fine-1.x_Y",)


def test_a_flood_of_fields_is_told_in_part() -> None:
    """At most twenty names go into a header."""
    assert sort_out({f"f{n}": Raw(b"1") for n in range(1000)}, TABLE) == tuple(f"f{n}" for n in range(20))
