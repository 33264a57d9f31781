"""A stream that is cut at any byte: whole events, then one honest end."""

import asyncio
import re
from typing import Any

import pytest

from processes import Emulator, Router
from wire import TGI, VLLM, Front, Incoming, acall, call, check_silent, data_of, outcome, post

_AT_ONCE = 24
_ENDS = ("reset", "fin", "end")  # how the engine's connection ends: RST, FIN, or in good form
_TOKENS = 4
_SLICE = 200  # faults armed at once: an engine looks through all of them for each call


def called(front: Front, text: str, number: int) -> bytes:
    """A call whose body tells where it is cut, while prompt and length of the id are always the same."""
    return front.request(
        text, _TOKENS, f"x-request-id: cut-{number:05}", stream=True, user=f"<cut{number:05}>"
    )


def reference(front: Front, engine: Emulator) -> tuple[str, bytes]:
    """A prompt, and the engine's own stream for it, which holds signs of several bytes."""
    for number in range(300):
        text = f"[emulated] ספר לי על דוב 🐻 {number} של"
        path, value = front.value(text, _TOKENS, stream=True)
        if front is VLLM:
            value["model"] = engine.stats()["model"]
        path = path.removeprefix(f"/models/{front.model}")
        answer = call(engine.port, post(path, value, "x-request-id: cut-00000-a1"))
        assert answer.ended
        if any(0x5D0 <= ord(sign) <= 0x5EA for sign in answer.body.decode()):
            return text, answer.body
    raise AssertionError("the engine does not write Hebrew")


def normal(text: str) -> str:
    """Without what differs between two equal calls."""
    return re.sub(r'"created":\d+|cut-\d{5}(-a\d)?', "", text)


def cut_at(number: int) -> dict[str, Any]:
    how = _ENDS[number % 3]
    return {"fault": "cut_bytes", "arg": f"{number}:{how}", "marker": f"<cut{number:05}>", "times": 1}


async def all_cuts(port: int, front: Front, text: str, numbers: range) -> list[Incoming]:
    limit = asyncio.Semaphore(_AT_ONCE)
    return await asyncio.gather(*(acall(port, called(front, text, number), limit) for number in numbers))


@pytest.mark.parametrize("front", [VLLM, TGI], ids=str)
def test_a_cut_at_any_byte_is_told_once_and_leaves_no_half_event(
    router: Router, vllm: Emulator, tgi: Emulator, front: Front
) -> None:
    """Every whole event before the cut arrives, nothing of the next; then one error frame, or a plain 502."""
    engine = {"vllm": vllm, "tgi": tgi}[front.engine]
    text, body = reference(front, engine)
    told = [normal(data) for data in data_of(body)]
    ends = [match.end() for match in re.finditer(rb"\n\n", body)]
    uncommitted = 1 if front is VLLM else 0  # a chunk that only tells the role commits to nothing
    numbers = range(len(body))
    answers: list[Incoming] = []
    for start in range(0, len(body), _SLICE):
        part = numbers[start : start + _SLICE]
        engine.http.post("/__faults", json=[cut_at(number) for number in part]).raise_for_status()
        try:
            answers += asyncio.run(all_cuts(router.port, front, text, part))
        finally:
            engine.disarm()
    for number, answer in zip(numbers, answers, strict=True):
        check_silent(answer, str(engine.port))
        found = outcome(front, answer, stream=True)
        whole = sum(end <= number for end in ends)
        if whole <= uncommitted:
            assert found == "502 engine_cut", number
        else:
            assert found == "frame engine_cut", number
            assert [normal(data) for data in data_of(answer.body)][:-1] == told[:whole], number
    router.wait_until_quiet()
    engine.wait_until_quiet()


def test_an_answer_that_is_cut_before_it_is_sent_is_a_502(
    router: Router, vllm: Emulator, tgi: Emulator
) -> None:
    """A whole answer is held until its last byte, so a cut one never looks like a good one."""
    for front, engine in ((VLLM, vllm), (TGI, tgi)):
        for number in (0, 1, 17, 40):
            for how in _ENDS:
                engine.arm("cut_bytes", f"{number}:{how}", times=1)
                answer = call(router.port, front.request(stream=False))
                assert outcome(front, answer, stream=False) == "502 engine_cut", (front.name, number, how)


def test_a_failed_stream_may_end_without_its_final_chunk(vllm: Emulator) -> None:
    """With STREAM_ERROR_TERMINATION=abort the HTTP framing breaks off too, after the error frame."""
    with Router(VLLM_GEMMA3_ENDPOINT=vllm.url, STREAM_ERROR_TERMINATION="abort") as router:
        router.wait_until_up("gemma-3-12b")
        vllm.arm("eof_after", 2, times=1)
        answer = call(router.port, VLLM.request(stream=True))
        assert not answer.ended
        assert '"code":"engine_cut"' in data_of(answer.body)[-1]
        assert call(router.port, VLLM.request(stream=True)).ended


def test_bytes_cut_anywhere_arrive_as_they_were(router: Router, tgi: Emulator) -> None:
    """Signs and events that network segments cut in two reach the client unchanged."""
    text, body = reference(TGI, tgi)
    for size in (1, 7):
        tgi.arm("split_every", size, times=1)
        answer = call(router.port, called(TGI, text, 0))
        assert answer.body == body, size
