#!/usr/bin/env bash
# TGI's API by curl: a text, the same as a stream, its tokens. Each model has a base URL of its own for it.
# examples/tgi.sh [MODEL]; ROUTER_URL says where the router is, ROUTER_KEY is your key, where one is needed.
set -eu
url=${ROUTER_URL:-http://localhost:8000} model=${1:-distilgpt2}

ask() { # ask PATH DATA; without a key curl leaves the header out
    curl --silent --show-error --fail-with-body --no-buffer --max-time 600 "$url/models/$model$1" \
        --header "X-API-Key: ${ROUTER_KEY:-}" --header 'Content-Type: application/json' --data "$2"
    echo
}

asked='{"inputs":"Once upon a time","parameters":{"max_new_tokens":24}}'
ask /generate "$asked"
ask /generate_stream "$asked"
ask /tokenize '{"inputs":"Once upon a time"}'
