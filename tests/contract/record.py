"""Record what an engine answers, as files under data/recorded.

    scripts/vllm-cpu serve --port 8001 --api-key contract-key
    python -m tests.contract.record http://127.0.0.1:8001

A file is the status line, the headers, an empty line (all with LF) and the body. The body's bytes are as they
came, but for the path of the checkpoint, which is made short and corrected in the length.
Taken apart: `error-503-busy` from a server with `--max-num-queued-reqs 2` that ran two requests, and the two
files of an engine's death while its process (a child of the server) was killed.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import httpx

RECORDED = Path(__file__).parent / "data" / "recorded"
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HI = [{"role": "user", "content": "Hi"}]
GREEDY = {"temperature": 0, "max_tokens": 8}
USAGE = {"include_usage": True}
CONTINUOUS = {"include_usage": True, "continuous_usage_stats": True}
HEBREW = {"structured_outputs": {"choice": ["שלום לכולם 🙂"]}, "temperature": 0}
KEYED = {"authorization": "Bearer contract-key"}
JSON = {"content-type": "application/json"}

# File name: method, path, body. A body of bytes goes as it is.
CASES: dict[str, tuple[str, str, dict[str, Any] | bytes | None]] = {
    "models": ("GET", "/v1/models", None),
    "version": ("GET", "/version", None),
    "health": ("GET", "/health", None),
    "load": ("GET", "/load", None),
    "metrics": ("GET", "/metrics", None),
    "tokenize": ("POST", "/tokenize", {"prompt": "Hi there"}),
    "tokenize-chat": ("POST", "/tokenize", {"messages": HI}),
    "detokenize": ("POST", "/detokenize", {"tokens": [45, 78]}),
    "chat": ("POST", CHAT, {"messages": HI} | GREEDY),
    "chat-stop": ("POST", CHAT, {"messages": HI, "structured_outputs": {"choice": ["abc"]}}),
    "chat-two-choices": ("POST", CHAT, {"messages": HI, "n": 2, "max_tokens": 3, "seed": 1}),
    "chat-logprobs": ("POST", CHAT, {"messages": HI, "logprobs": True, "top_logprobs": 2} | GREEDY),
    "chat-stream": ("POST", CHAT, {"messages": HI, "stream": True} | GREEDY),
    "chat-stream-usage": ("POST", CHAT, {"messages": HI, "stream": True, "stream_options": USAGE} | GREEDY),
    "chat-stream-continuous-usage": (
        "POST",
        CHAT,
        {"messages": HI, "stream": True, "stream_options": CONTINUOUS} | GREEDY,
    ),
    "chat-stream-hebrew": ("POST", CHAT, {"messages": HI, "stream": True, "stream_options": USAGE} | HEBREW),
    "chat-stream-two-choices": (
        "POST",
        CHAT,
        {"messages": HI, "stream": True, "n": 2, "max_tokens": 3, "seed": 1},
    ),
    "chat-stream-logprobs": (
        "POST",
        CHAT,
        {
            "messages": HI,
            "stream": True,
            "logprobs": True,
            "top_logprobs": 2,
            "max_tokens": 3,
            "temperature": 0,
        },
    ),
    "completion": ("POST", COMPLETIONS, {"prompt": "Hi there"} | GREEDY),
    "completion-echo-hebrew": (
        "POST",
        COMPLETIONS,
        {"prompt": "שלום 🙂", "echo": True, "max_tokens": 1, "temperature": 0},
    ),
    "completion-stream": ("POST", COMPLETIONS, {"prompt": "Hi there", "stream": True} | GREEDY),
    "completion-stream-usage": (
        "POST",
        COMPLETIONS,
        {"prompt": "Hi there", "stream": True, "stream_options": USAGE} | GREEDY,
    ),
    "completion-stream-two-prompts": (
        "POST",
        COMPLETIONS,
        {"prompt": ["Hi", "there"], "stream": True, "max_tokens": 2, "temperature": 0},
    ),
    "error-400-schema": ("POST", CHAT, {"messages": "Hi"}),
    "error-400-missing": ("POST", CHAT, {}),
    "error-400-null-name": ("POST", CHAT, {"messages": [{"role": "user", "content": "Hi", "name": None}]}),
    "error-400-value": ("POST", CHAT, {"messages": HI, "temperature": -1}),
    "error-400-max-tokens": ("POST", CHAT, {"messages": HI, "max_tokens": 99999}),
    "error-400-context": ("POST", COMPLETIONS, {"prompt": [1] * 3000}),
    "error-400-no-prompt": ("POST", COMPLETIONS, {}),
    "error-400-roles": ("POST", CHAT, {"messages": HI + HI}),
    "error-400-stream-options": ("POST", CHAT, {"messages": HI, "stream_options": USAGE}),
    "error-400-tools": (
        "POST",
        CHAT,
        {"messages": HI, "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
    ),
    "error-400-chat-template": ("POST", CHAT, {"messages": HI, "chat_template": "x"}),
    "error-400-bad-json": ("POST", CHAT, b"{oops"),
    "error-400-bad-utf8": ("POST", CHAT, b'{"messages":"\xff"}'),
    "error-400-no-body": ("POST", CHAT, b""),
    "error-403-render": ("POST", "/v1/chat/completions/render", {"messages": HI}),
    "error-404-model": ("POST", CHAT, {"model": "no/such", "messages": HI}),
    "error-404-path": ("GET", "/nope", None),
    "error-404-embeddings": ("POST", "/v1/embeddings", {"input": "Hi"}),
    "error-405": ("GET", CHAT, None),
}


def written(answer: httpx.Response) -> bytes:
    """An answer as a file: status line, headers, blank line, body."""
    body = re.sub(rb'"root":"[^"]*/([^"/]+)"', rb'"root":"\1"', answer.content)
    if "content-length" in answer.headers:
        answer.headers["content-length"] = str(len(body))
    reason = f"HTTP/1.1 {answer.status_code} {answer.reason_phrase}"
    head = [reason, *(f"{name}: {value}" for name, value in answer.headers.items())]
    return "\n".join(head).encode() + b"\n\n" + body


def ask(client: httpx.Client, method: str, path: str, body: dict[str, Any] | bytes | None) -> httpx.Response:
    """One request of the table."""
    if body is None:
        return client.request(method, path)
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return client.request(method, path, content=content, headers=JSON)


def main(url: str) -> None:
    """Write all files."""
    with httpx.Client(base_url=url, timeout=60, headers=KEYED, trust_env=False) as client:
        for name, case in CASES.items():
            (RECORDED / f"{name}.txt").write_bytes(written(ask(client, *case)))
        plain = client.post(CHAT, content=b"{}", headers={"content-type": "text/plain"})
        (RECORDED / "error-400-content-type.txt").write_bytes(written(plain))
        keyless = client.get("/v1/models", headers={"authorization": "Bearer wrong"})
        (RECORDED / "error-401-key.txt").write_bytes(written(keyless))


if __name__ == "__main__":
    main(sys.argv[1])
