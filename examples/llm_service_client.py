"""The LLM FastAPI Service's API in Python: a conversation of two turns.

With CHAT_HISTORY__ENABLED=true the router remembers what was said; else each turn is new to the model.

examples/llm_service_client.py; ROUTER_URL says where the router is, ROUTER_KEY is your key.
"""

import os
import sys
import uuid

import httpx

URL = os.environ.get("ROUTER_URL", "http://localhost:8000")
KEY = os.environ.get("ROUTER_KEY")
if KEY is None:
    sys.exit("ROUTER_KEY is your API key; `pointsman keys create` makes one")

session = str(uuid.uuid4())  # nobody is to guess it
with httpx.Client(base_url=URL, headers={"x-api-key": KEY}, timeout=600) as client:
    for said in ("My name is Dana.", "What is my name?"):
        turn = {"role": "user", "content": said}
        answer = client.post("/v1/chat", json={"session_id": session, "messages": [turn], "max_tokens": 24})
        if answer.is_error:
            sys.exit(f"{answer.status_code}: {answer.text}")
        found = answer.json()
        print(f"{found['message']['content']} ({found['tokens_generated']} tokens)")
