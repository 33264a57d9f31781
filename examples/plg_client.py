"""PLG's LLM API in Python: a chat as a stream, by the rules of PLG's own page, then the tasks in a mail.

examples/plg_client.py; ROUTER_URL says where the router is. No key is needed.
"""

import json
import os
import sys

import httpx

URL = os.environ.get("ROUTER_URL", "http://localhost:8000")
MAIL = "From: Noa <noa@example.com>\nDate: Sun, 3 Aug 2025\n\nDan, please send me the invoices by Thursday."

turns = [
    {"role": "user", "content": "אמור שלום"}
]  # a client keeps the conversation and sends all of it each time
with httpx.Client(base_url=URL, timeout=600) as client:
    asked = {"messages": turns, "session_id": "chat_1", "max_tokens": 24}
    with client.stream("POST", "/api/chat/stream", json=asked) as answer:
        if answer.is_error:
            answer.read()
            sys.exit(f"{answer.status_code}: {answer.json()['detail']}")
        for line in answer.iter_lines():
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event = json.loads(line.removeprefix("data: "))
            if event.get("error"):
                sys.exit(f"\n{event['error']}")
            for choice in event.get("choices", []):
                print(choice["delta"].get("content") or "", end="", flush=True)
    print()
    tasks = client.post("/api/tasks/extract", json={"email_content": MAIL})
    if tasks.is_error:
        sys.exit(f"{tasks.status_code}: {tasks.json()['detail']}")
    for task in tasks.json():
        print(f"{task['assigned_to']}: {task['title']}, until {task['due_date']}")
