"""The recorded answers of the real vLLM are what their names say, so that other tests may lean on them."""

import json
from pathlib import Path

import pytest

from .schema import DATA, check
from .sse import DONE, cut

RECORDED = sorted((DATA / "recorded").glob("*.txt"))


def parts(file: Path) -> tuple[int, bytes, bytes]:
    """Status, headers and body of a recorded answer."""
    head, _, body = file.read_bytes().partition(b"\n\n")
    return int(head.split()[1]), head, body


@pytest.mark.parametrize("file", RECORDED, ids=lambda file: file.stem)
def test_recorded_answer(file: Path) -> None:
    """Status, length and shape fit the file's name and the published schema."""
    status, head, body = parts(file)
    kind, _, rest = file.stem.partition("-")
    assert status == (int(rest[:3]) if kind == "error" else 200)
    if b"content-length" in head:
        assert f"content-length: {len(body)}".encode() in head.splitlines()
    whole = {"chat": "ChatCompletion", "completion": "Completion", "tokenize": "Tokens", "models": "Models"}
    if kind == "error" and b'"error":{' in body:
        check("vllm", "Error", json.loads(body))
    elif "stream" in rest:
        *frames, last = cut(body)
        assert last == DONE
        for frame in frames:
            event = json.loads(frame.removeprefix(b"data: "))
            check("vllm", "Error" if "error" in event else f"{whole[kind]}Chunk", event)
    elif kind in whole:
        check("vllm", whole[kind], json.loads(body))


def test_recordings_name_no_place() -> None:
    """No recording holds a path of the machine it was made on."""
    for file in RECORDED:
        assert b"/.cache" not in file.read_bytes()
        assert b"/root" not in file.read_bytes()
        assert b"/home" not in file.read_bytes()
