"""OpenAI's API in Python: a chat as a stream, printed as it comes. OpenAI's own library works as well.

examples/openai_client.py [MODEL]; ROUTER_URL says where the router is, ROUTER_KEY is your key.
"""

import json
import os
import sys

import httpx

URL = os.environ.get("ROUTER_URL", "http://localhost:8000")
KEY = os.environ.get("ROUTER_KEY", "none")
MODEL = sys.argv[1] if len(sys.argv) > 1 else "gemma-3-12b"

asked = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Say hello."}],
    "max_tokens": 24,
    "stream": True,
}
headers = {"authorization": f"Bearer {KEY}"}
with (
    httpx.Client(base_url=URL, headers=headers, timeout=600) as client,
    client.stream("POST", "/v1/chat/completions", json=asked) as answer,
):
    if answer.is_error:
        answer.read()
        sys.exit(f"{answer.status_code}: {answer.json()['error']['message']}")
    finished = False
    for line in answer.iter_lines():
        if not line.startswith("data: "):
            continue  # an empty line, or a comment that keeps the connection open
        if line == "data: [DONE]":
            finished = True
            break
        event = json.loads(line.removeprefix("data: "))
        if "error" in event:
            sys.exit(f"\nthe stream broke: {event['error']['message']}")
        for choice in event["choices"]:
            print(choice["delta"].get("content") or "", end="", flush=True)
    print()
    if not finished:
        sys.exit("the answer ended before it was whole")
