#!/usr/bin/env bash
# The LLM FastAPI Service's API by curl: a text, a conversation, the same as a stream. With CHAT_HISTORY__ENABLED=true
# the router remembers what was said in a session; else each turn is new to the model.
# examples/llm_service.sh; ROUTER_URL says where the router is, ROUTER_KEY is your key, which these routes need.
set -eu
url=${ROUTER_URL:-http://localhost:8000} session=example-$$-$(date +%s)
: "${ROUTER_KEY:?is your API key; pointsman keys create makes one}"

ask() { # ask PATH DATA
    curl --silent --show-error --fail-with-body --no-buffer --max-time 600 "$url$1" \
        --header "X-API-Key: $ROUTER_KEY" --header 'Content-Type: application/json' --data "$2"
    echo
}
turn() { echo "{\"session_id\":\"$session\",\"messages\":[{\"role\":\"user\",\"content\":\"$1\"}],\"max_tokens\":24$2}"; }

ask /v1/generate '{"prompt":"Once upon a time","max_tokens":24}'
ask /v1/chat "$(turn 'My name is Dana.' '')"
ask /v1/chat "$(turn 'What is my name?' ',"stream":true')"
