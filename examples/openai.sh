#!/usr/bin/env bash
# OpenAI's API by curl: the models, a chat, the same chat as a stream.
# examples/openai.sh [MODEL]; ROUTER_URL says where the router is, ROUTER_KEY is your key, where one is needed.
set -eu
url=${ROUTER_URL:-http://localhost:8000} model=${1:-gemma-3-12b}

ask() { # ask PATH [curl's own arguments]; without a key curl leaves the header out
    path=$1 && shift
    curl --silent --show-error --fail-with-body --no-buffer --max-time 600 "$url$path" \
        --header "X-API-Key: ${ROUTER_KEY:-}" --header 'Content-Type: application/json' "$@"
    echo
}

messages='[{"role":"user","content":"Say hello."}]'
ask /v1/models
ask /v1/chat/completions --data "{\"model\":\"$model\",\"messages\":$messages,\"max_tokens\":24}"
ask /v1/chat/completions --data "{\"model\":\"$model\",\"messages\":$messages,\"max_tokens\":24,\"stream\":true}"
