#!/usr/bin/env bash
# The DistilGPT-2 service's API by curl: a text, its continuation alone, a chat. No key is needed.
# examples/distilgpt2.sh; ROUTER_URL says where the router is.
set -eu
url=${ROUTER_URL:-http://localhost:8000}

ask() { # ask PATH [curl's own arguments]
    path=$1 && shift
    curl --silent --show-error --fail-with-body --no-buffer --max-time 600 "$url$path" \
        --header 'Content-Type: application/json' "$@"
    echo
}

ask /model-info
ask /generate --data '{"prompt":"Once upon a time","max_length":24}'
ask /complete --data '{"prompt":"Once upon a time","max_tokens":24,"stream":true}'
ask /chat/completions --data '{"messages":[{"role":"user","content":"Say hello."}],"max_tokens":24}'
