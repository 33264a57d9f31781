"""What it costs to say one API's stream in another's words, beside a stream that passes; see `scripts/bench`.

A stand-in speaks for both engines. Under load it sends a stream at once; paced, one event at a time on each
of many streams. The processor time is the router's own. Medians of rounds, in which the cases take turns.
"""

import asyncio
import contextlib
import json
import statistics
import sys
import time
from dataclasses import dataclass
from typing import Any

import uvloop
from overhead import (
    CHUNK,
    CONNECTIONS,
    END,
    EVENTS,
    LIMIT_S,
    MODEL,
    MODELS,
    ROUNDS,
    STREAM_HEAD,
    Caller,
    Engine,
    Target,
    chunk,
    cpu_s,
    free_port,
    plain,
    running,
)

LOAD_S = 1.5
PACED_STREAMS, EVENT_EVERY_S = 50, 0.02

_TOKEN = {"id": 995, "text": " word", "logprob": -1.5, "special": False}
TGI_EVENT = json.dumps({"index": 1, "token": _TOKEN, "generated_text": None, "details": None})
_DETAILS = {"finish_reason": "length", "generated_tokens": EVENTS, "seed": None, "input_length": 20}
TGI_LAST = json.dumps({"index": EVENTS, "token": _TOKEN, "generated_text": " word", "details": _DETAILS})
_LOGPROBS = {"text_offset": [0], "token_logprobs": [-1.5], "tokens": [" word"], "top_logprobs": None}


def completion(finish: str | None) -> str:
    """An event of vLLM's completions."""
    choice = {"index": 0, "text": " word", "logprobs": _LOGPROBS, "finish_reason": finish, "token_ids": [995]}
    told = {"id": "cmpl-1", "object": "text_completion", "created": 1700000000, "model": MODEL}
    return json.dumps({**told, "choices": [choice]})


USAGE = json.dumps({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": EVENTS}})
STREAMS = {
    b"/v1/chat/completions": [CHUNK] * (EVENTS - 1) + [CHUNK.replace("null", '"stop"'), "[DONE]"],
    b"/v1/completions": [completion(None)] * (EVENTS - 1) + [completion("length"), USAGE, "[DONE]"],
    b"/generate_stream": [TGI_EVENT] * (EVENTS - 1) + [TGI_LAST],
}
INFO = json.dumps({"model_id": MODEL, "version": "3.3.6-dev0", "max_total_tokens": 4096})
NO_TEMPLATE = json.dumps({"error": "Template error: template not found", "error_type": "template_error"})
ANSWERS = {
    b"/health": plain("{}"),
    b"/v1/models": plain(MODELS),
    b"/tokenize": plain('{"count":5,"tokens":[1]}'),
    b"/info": plain(INFO),
    b"/chat_tokenize": plain(NO_TEMPLATE).replace(b"200 OK", b"422 Unprocessable Entity"),
}
WORDS = "Tell me about artificial intelligence in three short sentences, please, and keep it simple."


@dataclass(frozen=True)
class Case:
    """A stream that a client asks for. `engine` is the id of the model that serves it."""

    name: str
    engine: str
    path: str
    body: dict[str, Any]


CHAT = {"messages": [{"role": "user", "content": WORDS}], "max_tokens": EVENTS, "stream": True}
TEXT = {"inputs": WORDS, "parameters": {"max_new_tokens": EVENTS}}
PROMPT = {"prompt": WORDS, "max_new_tokens": EVENTS, "stream": True}
CASES = (
    Case("OpenAI chat on vLLM, which passes", "ours-vllm", "v1/chat/completions", CHAT),
    Case("TGI's generate_stream on vLLM", "ours-vllm", "generate_stream", TEXT),
    Case("OpenAI chat on TGI without a chat template", "ours-tgi", "v1/chat/completions", CHAT),
    Case("/generate with model_id on TGI", "ours-tgi", "generate", PROMPT | {"model_id": "ours-tgi"}),
    Case("/generate with model_id on vLLM", "ours-vllm", "generate", PROMPT | {"model_id": "ours-vllm"}),
)


class BothEngines(Engine):
    """Answers in the words of the path; a stream all at once, or one event at a time where it is paced."""

    paced = False

    def answer(self, path: bytes, request: bytes) -> None:
        """Send the answer to a request; one of `/__pace` turns the pace on, or off again."""
        if path == b"/__pace":
            BothEngines.paced = not BothEngines.paced
            self._transport.write(plain("{}"))
        elif path not in STREAMS:
            self._transport.write(ANSWERS[path])
        elif BothEngines.paced:
            self._transport.write(STREAM_HEAD)
            self._next(iter(STREAMS[path]))
        else:
            self._transport.write(STREAM_HEAD + b"".join(map(chunk, STREAMS[path])) + END)

    def _next(self, events: Any) -> None:
        event = next(events, None)
        if self._transport.is_closing():
            return
        self._transport.write(END if event is None else chunk(event))
        if event is not None:
            asyncio.get_running_loop().call_later(EVENT_EVERY_S, self._next, events)


async def serve_engines(port: int) -> None:
    """Be both engines, until killed."""
    server = await asyncio.get_running_loop().create_server(BothEngines, "127.0.0.1", port)
    await server.serve_forever()


def post(port: int, path: str, body: dict[str, Any]) -> bytes:
    """A request as it goes over the wire."""
    raw = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(raw)}\r\n\r\n".encode() + raw


async def stream(target: Target, case: Case, connections: int, for_s: float) -> tuple[float, float]:
    """Events per second, and microseconds of the router's processor time per event."""
    loop = asyncio.get_running_loop()
    message = post(target.port, f"/models/{case.engine}/{case.path}", case.body)
    opened = [(await loop.create_connection(Caller, "127.0.0.1", target.port))[1] for _ in range(connections)]
    used, start = cpu_s(target.pid), time.perf_counter()

    async def busy(caller: Caller) -> int:
        events = 0
        while True:
            events += (await caller.call(message))[1]
            if time.perf_counter() > start + for_s:
                return events

    try:
        events = sum(await asyncio.gather(*map(busy, opened)))
    finally:
        for caller in opened:
            caller.transport.abort()
    return events / (time.perf_counter() - start), 1e6 * (cpu_s(target.pid) - used) / events


async def pace(port: int) -> None:
    """Turn the engines' pace on, or off again."""
    _, caller = await asyncio.get_running_loop().create_connection(Caller, "127.0.0.1", port)
    await caller.call(post(port, "/__pace", {}))
    caller.transport.abort()


async def measure(router: Target, engine: Target) -> list[tuple[float, float, float]]:
    """One round: for each case events per second, processor time per event, and the same when paced."""
    flat = [await stream(router, case, CONNECTIONS, LOAD_S) for case in CASES]
    await pace(engine.port)
    paced = [await stream(router, case, PACED_STREAMS, 0.0) for case in CASES]
    await pace(engine.port)
    return [(rate, cost, slow) for (rate, cost), (_, slow) in zip(flat, paced, strict=True)]


def main() -> None:
    """Measure in turns, and print medians."""
    engine_port, port = free_port(), free_port()
    url = f"http://127.0.0.1:{engine_port}"
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "VLLM_OURS_VLLM_ENDPOINT": url,
        "TGI_OURS_TGI_ENDPOINT": url,
    }
    rounds = []
    with (
        running(engine_port, __file__, str(engine_port)) as engine,
        running(port, "-m", "pointsman", "serve", **settings) as router,
    ):
        time.sleep(1)  # for the first health check
        for number in range(ROUNDS):
            print(f"round {number + 1} of {ROUNDS} …", file=sys.stderr)
            rounds.append(uvloop.run(asyncio.wait_for(measure(router, engine), 3 * LIMIT_S)))
    title = f"streams, medians of {ROUNDS} rounds"
    print(f"\n{title:46}{'events/s':>10}{'us/event':>12}{'paced':>12}")
    passing = 0.0
    for at, case in enumerate(CASES):
        rate, cost, slow = (statistics.median(one[at][figure] for one in rounds) for figure in range(3))
        passing = passing or slow
        print(f"{case.name:46}{rate:10,.0f}{cost:12.1f}{slow:12.1f} us/event{slow / passing:8.2f} x")


if __name__ == "__main__":
    if len(sys.argv) == 2:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(serve_engines(int(sys.argv[1])))
    else:
        main()
