"""TGI's API in Python: a text, and the same as a stream. `huggingface_hub.InferenceClient` works as well.

examples/tgi_client.py [MODEL]; ROUTER_URL says where the router is, ROUTER_KEY is your key.
"""

import json
import os
import sys

import httpx

URL = os.environ.get("ROUTER_URL", "http://localhost:8000")
KEY = os.environ.get("ROUTER_KEY", "none")
MODEL = sys.argv[1] if len(sys.argv) > 1 else "distilgpt2"

asked = {"inputs": "Once upon a time", "parameters": {"max_new_tokens": 24}}
headers = {"authorization": f"Bearer {KEY}"}
with httpx.Client(base_url=f"{URL}/models/{MODEL}", headers=headers, timeout=600) as client:
    whole = client.post("/generate", json=asked)
    if whole.is_error:
        sys.exit(f"{whole.status_code}: {whole.json()['error']}")
    print(whole.json()["generated_text"])

    text = None  # of the last event, which holds it all
    with client.stream("POST", "/generate_stream", json=asked) as answer:
        if answer.is_error:
            answer.read()
            sys.exit(f"{answer.status_code}: {answer.json()['error']}")
        for line in answer.iter_lines():
            if line.startswith("data:"):
                event = json.loads(line.removeprefix("data:"))
                if "error" in event:
                    sys.exit(f"\nthe stream broke: {event['error']}")
                print(event["token"]["text"], end="", flush=True)
                text = event["generated_text"]
    print()
    if text is None:
        sys.exit("the answer ended before it was whole")
