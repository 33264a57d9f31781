"""Media in chat messages: only what came with the request, never what an engine would have to fetch.

An engine fetches each URL that a stranger names, from within the operator's network.
"""

import msgspec

from pointsman.errors import CONTROL_FIELD, REMOTE_MEDIA, RouterError
from pointsman.surfaces.base import invalid

# TGI writes an image's URL into Markdown, `![](…)`: a bracket or blank would begin text of the sender's.
_BRACKETS = "()[]"
VALUES_MAX = 250_000  # in messages that are looked through: more would hold up our loop


def refuse_remote(messages: msgspec.Raw, body: bytes, hosts: tuple[str, ...]) -> None:
    """Look through all messages for `…_url` and `…_embeds` parts.

    Args:
        body: the whole body; where no such name can be in it, the messages are not decoded.
        hosts: hosts that an engine may fetch from.

    Raises:
        RouterError: REMOTE_MEDIA for URLs other than `data:`; CONTROL_FIELD for tensors, which an engine
            would unpack; INVALID_PARAMETER where the messages cannot be read.
    """
    if b"_url" not in body and b"_embeds" not in body and b"\\u" not in body:
        return
    if memoryview(messages).nbytes > VALUES_MAX and bytes(messages).count(b",") > VALUES_MAX:
        raise invalid("messages", f"hold at most {VALUES_MAX:,} values and commas beside media")
    try:
        todo: list[object] = [msgspec.json.decode(messages)]
    except msgspec.DecodeError:
        raise invalid("messages", "hold numbers and strings that every parser reads alike") from None
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += [held for held in value if isinstance(held, dict | list)]
        elif isinstance(value, dict):
            todo += [held for held in value.values() if isinstance(held, dict | list)]
            for key, held in value.items():
                if held is not None:
                    _check(key, held, hosts)
            if value.get("type") == "prompt_embeds":
                _refuse_tensors("prompt_embeds")


def _check(key: str, held: object, hosts: tuple[str, ...]) -> None:
    if key.endswith("_embeds"):
        _refuse_tensors(key)
    if not key.endswith("_url"):
        return
    url = held.get("url") if isinstance(held, dict) else held
    if url is None:
        return
    if isinstance(url, str) and url.split(None, 1) == [url] and not any(mark in url for mark in _BRACKETS):
        allowed = [f"{scheme}://{host}/" for host in hosts for scheme in ("https", "http")]
        if url.startswith(("data:", *allowed)):
            return
    raise RouterError(REMOTE_MEDIA, param=key)


def _refuse_tensors(name: str) -> None:
    raise RouterError(CONTROL_FIELD, f"`{name}` hands tensors to the engine and is not accepted.", param=name)
