"""The DistilGPT-2 service's API in Python, by the standard library alone: a text, a continuation, a chat.

examples/distilgpt2_client.py; ROUTER_URL says where the router is. No key is needed.
"""

import json
import os
import sys
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

URL = os.environ.get("ROUTER_URL", "http://localhost:8000")


def ask(path: str, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to a call; what is wrong ends the program."""
    request = Request(URL + path, json.dumps(asked).encode(), {"content-type": "application/json"})  # noqa: S310 - ROUTER_URL is the user's own
    try:
        with urlopen(request, timeout=600) as answer:  # noqa: S310
            found: dict[str, Any] = json.load(answer)
            return found
    except HTTPError as error:
        sys.exit(f"{error.code}: {json.load(error)['detail']}")


story = ask("/generate", {"prompt": "Once upon a time", "max_length": 24})
print(story["generated_text"])
print(ask("/complete", {"prompt": "The weather today is", "max_tokens": 24})["completion"])
turns = [{"role": "user", "content": "Say hello."}]
print(ask("/chat/completions", {"messages": turns, "max_tokens": 24})["content"])
