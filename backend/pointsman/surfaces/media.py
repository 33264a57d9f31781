"""Media in chat messages: only what came with the request, never what an engine would have to fetch.

An engine fetches each URL that a stranger names, from within the operator's network.
"""

import msgspec

from pointsman.errors import CONTROL_FIELD, REMOTE_MEDIA, RouterError
from pointsman.surfaces.base import invalid

VALUES_MAX = 150_000  # in messages that are looked through: more would hold up our loop
HELD_MAX = 60_000  # items and fields of their lists and objects, which are looked at one by one
_HOLDERS = (dict, list)
_SUFFIXES = ("_url", "_embeds")
_ESCAPED = (b"\\u005", b"\\u006", b"\\u007")  # how an underscore or a letter would be written


def refuse_remote(messages: msgspec.Raw, body: bytes, hosts: tuple[str, ...]) -> None:
    """Look through all messages for `…_url` and `…_embeds` parts.

    Args:
        body: the whole body; where no such name can be in it, the messages are not decoded.
        hosts: hosts that an engine may fetch from.

    Raises:
        RouterError: REMOTE_MEDIA for URLs other than `data:`; CONTROL_FIELD for tensors, which an engine
            would unpack; INVALID_PARAMETER where the messages cannot be read.
    """
    if b"_url" not in body and b"_embeds" not in body and (b"\\u" not in body or not _escapes(body)):
        return
    if memoryview(messages).nbytes > VALUES_MAX and bytes(messages).count(b",") > VALUES_MAX:
        raise invalid("messages", f"hold at most {VALUES_MAX:,} values and commas beside media")
    try:
        todo: list[object] = [msgspec.json.decode(messages)]
    except msgspec.DecodeError:
        raise invalid("messages", "hold numbers and strings that every parser reads alike") from None
    held = 0
    while todo:
        value = todo.pop()
        if not isinstance(value, _HOLDERS):
            continue
        held += len(value)
        if held > HELD_MAX:
            raise invalid("messages", f"hold at most {HELD_MAX:,} items and fields beside media")
        if isinstance(value, list):
            todo += value
            continue
        for key, told in value.items():
            if isinstance(told, _HOLDERS):
                todo.append(told)
            if key.endswith(_SUFFIXES) and told is not None:
                _check(key, told, hosts)
        if value.get("type") == "prompt_embeds":
            _refuse_tensors("prompt_embeds")


def _escapes(body: bytes) -> bool:
    """Whether letters may be escaped in a body: few write so what any other could be."""
    return any(spelt in body for spelt in _ESCAPED)


def _check(key: str, held: object, hosts: tuple[str, ...]) -> None:
    if key.endswith("_embeds"):
        _refuse_tensors(key)
    url = held.get("url") if isinstance(held, dict) else held
    if url is None:
        return
    if not isinstance(url, str) or not _is_plain(url) or not (url.startswith("data:") or _is_of(url, hosts)):
        raise RouterError(REMOTE_MEDIA, param=key)


def _is_plain(url: str) -> bool:
    """Whether neither a bracket nor a blank is in it; it may have megabytes, or be one of many.

    TGI writes an image's URL into Markdown, `![](…)`: either would begin text of the sender's.
    """
    brackets = "(" in url or ")" in url or "[" in url or "]" in url
    return not brackets and url.split(None, 1) == [url]


def _is_of(url: str, hosts: tuple[str, ...]) -> bool:
    return url.startswith(tuple([f"{scheme}://{host}/" for host in hosts for scheme in ("https", "http")]))


def _refuse_tensors(name: str) -> None:
    raise RouterError(CONTROL_FIELD, f"`{name}` hands tensors to the engine and is not accepted.", param=name)
