"""`POST /generate` with model_id in Python: the same prompt to every available model. No key is needed.

examples/backend_api_client.py; ROUTER_URL says where the router is.
"""

import os

import httpx

URL = os.environ.get("ROUTER_URL", "http://localhost:8000")

with httpx.Client(base_url=URL, timeout=600) as client:
    for model in client.get("/models").raise_for_status().json():
        if not model["available"]:
            print(f"{model['id']}: {model['reason']}")
            continue
        asked = {"model_id": model["id"], "prompt": "Once upon a time", "max_new_tokens": 24}
        answer = client.post("/generate", json=asked)
        print(f"{model['id']}: {answer.json()['detail' if answer.is_error else 'generated_text']}")
