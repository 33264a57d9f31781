"""Messages are looked through for media where there may be any, and only so far as that is soon done."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.errors import CONTROL_FIELD, INVALID_PARAMETER, REMOTE_MEDIA, RouterError
from pointsman.surfaces.media import HELD_MAX, VALUES_MAX, refuse_remote


def look(messages: str) -> None:
    """Look through messages that are written so."""
    refuse_remote(msgspec.Raw(messages.encode()), f'{{"messages":{messages}}}'.encode(), ())


def escaped(text: str, places: int) -> str:
    """A JSON string in which these characters, told by the bits of a number, are written by their codes."""
    written = [f"\\u{ord(mark):04x}" if places >> at & 1 else mark for at, mark in enumerate(text)]
    return f'"{"".join(written)}"'


@given(st.sampled_from(["image_url", "_url", "audio_embeds", "x_embeds"]), st.integers(0, 4095))
def test_names_are_found_however_they_are_written(name: str, places: int) -> None:
    """An escape in a name hides it from nobody."""
    with pytest.raises(RouterError) as caught:
        look(f'[{{"role":"user","content":[{{{escaped(name, places)}:"http://x"}}]}}]')
    assert caught.value.kind is (REMOTE_MEDIA if name.endswith("_url") else CONTROL_FIELD)


@given(st.integers(0, 8191))
def test_a_type_is_found_however_it_is_written(places: int) -> None:
    """So is a part that tells by its type that it hands tensors over."""
    with pytest.raises(RouterError) as caught:
        look(f'[{{"role":"user","content":[{{"type":{escaped("prompt_embeds", places)}}}]}}]')
    assert caught.value.kind is CONTROL_FIELD


def test_capital_escapes_are_read() -> None:
    """Hexadecimal digits may be of either case."""
    with pytest.raises(RouterError):
        look('[{"image\\u005Furl":"http://x"}]')
    with pytest.raises(RouterError):
        look('[{"image_ur\\u006C":"http://x"}]')


@pytest.mark.parametrize("text", ["שלום", "naïve café", "a\nb", "🙂", "\x7f`~"])
def test_texts_with_escapes_pass(text: str) -> None:
    """Whatever a text holds, it names no media."""
    look(json.dumps([{"role": "user", "content": text * 1000}]))


def test_texts_in_other_scripts_are_not_decoded() -> None:
    """No name is in what has no escaped letter, so that even numbers that no parser reads alike may pass."""
    look('[{"role":"user","content":"\\u05e9\\u00e9","x":1e999}]')
    with pytest.raises(RouterError, match="every parser"):
        look('[{"role":"user","content":"\\u0061","x":1e999}]')


def bounded(messages: Any) -> str:
    """What is said against a chat that is too much beside media."""
    with pytest.raises(RouterError) as caught:
        look(json.dumps(messages))
    assert (caught.value.kind, caught.value.param) == (INVALID_PARAMETER, "messages")
    return caught.value.message


def test_messages_with_media_are_bounded() -> None:
    """Ten thousand messages with images pass; sixty thousand values are walked through and no more."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    look(json.dumps([{"role": "user", "content": image}] * 9_000))
    look(json.dumps([image, {"a": [1] * (HELD_MAX - 6)}]))
    assert "60,000" in bounded([image, {"a": [1] * HELD_MAX}])
    assert "60,000" in bounded([{"a": [{}] * HELD_MAX}, image])
    assert "150,000" in bounded([image, {"a": [1] * VALUES_MAX}])
    assert "150,000" in bounded([image, "," * VALUES_MAX])
