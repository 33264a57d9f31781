#!/usr/bin/env bash
# `POST /generate` with model_id by curl: the models as their list has them, a text of one. No key is needed.
# examples/backend_api.sh [MODEL]; ROUTER_URL says where the router is.
set -eu
url=${ROUTER_URL:-http://localhost:8000} model=${1:-distilgpt2}

ask() { # ask PATH [curl's own arguments]
    path=$1 && shift
    curl --silent --show-error --fail-with-body --no-buffer --max-time 600 "$url$path" \
        --header 'Content-Type: application/json' "$@"
    echo
}

ask /models
ask "/models/$model/health"
ask /generate --data "{\"model_id\":\"$model\",\"prompt\":\"Once upon a time\",\"max_new_tokens\":24}"
