"""Images that TGI would fetch because a prompt names them in Markdown.

TGI's vision models load each `![](http…)` of the finished prompt (router/src/validation.rs, `fetch_image`),
from within the operator's network, for whoever sent the text.
"""

import msgspec

from pointsman.call import Fields
from pointsman.errors import REMOTE_MEDIA, RouterError

_REMOTE = ("![](http://", "![](https://")
_SENTENCE = "`![](http…)` makes this engine fetch an image; put it inline as `![](data:…)`."


def refuse_remote_images(fields: Fields, body: bytes | None) -> None:
    """Look through the texts of a request.

    Args:
        body: the bytes that `fields` were read from, where there are any.

    Raises:
        RouterError: REMOTE_MEDIA, naming the field.
    """
    if body is not None and not _suspicious(body):
        return
    for name, raw in fields.items():
        held = memoryview(raw)
        if held[0] in b'"[{' and _suspicious(bytes(held)):
            try:
                value = msgspec.json.decode(raw)
            except msgspec.DecodeError:
                continue  # the engine's parser is no more lenient than ours
            texts: list[str] = []
            said: list[str] = []
            _collect(value, texts, said)
            # Parts of a message are joined by the chat template, so one image may be spread over several.
            if any(mark in text for text in [*texts, "".join(said)] for mark in _REMOTE):
                raise RouterError(REMOTE_MEDIA, _SENTENCE, param=name)


def _suspicious(raw: bytes) -> bool:
    return b"![" in raw or b"\\u00" in raw or b'"text"' in raw


def _collect(value: object, texts: list[str], said: list[str]) -> None:
    """Put all strings into `texts`, and those that a template joins, in order, into `said`."""
    if isinstance(value, str):
        texts.append(value)
    elif isinstance(value, list):
        for held in value:
            _collect(held, texts, said)
    elif isinstance(value, dict):
        for key, held in value.items():
            texts.append(key)
            if key in {"content", "text"} and isinstance(held, str):
                said.append(held)
            _collect(held, texts, said)
