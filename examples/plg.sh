#!/usr/bin/env bash
# PLG's LLM API by curl: a chat as a stream, the tasks in a mail, a title. No key is needed.
# examples/plg.sh; ROUTER_URL says where the router is.
set -eu
url=${ROUTER_URL:-http://localhost:8000}

ask() { # ask PATH [curl's own arguments]
    path=$1 && shift
    curl --silent --show-error --fail-with-body --no-buffer --max-time 600 "$url$path" \
        --header 'Content-Type: application/json' "$@"
    echo
}

mail='From: Noa <noa@example.com>\nDate: Sun, 3 Aug 2025\n\nDan, please send me the invoices by Thursday.'
ask /api/health
ask /api/chat/stream --data '{"messages":[{"role":"user","content":"אמור שלום"}],"session_id":"chat_1","max_tokens":24}'
ask /api/tasks/extract --data "{\"email_content\":\"$mail\"}"
ask /api/title/generate --data '{"user_message":"How do I renew a passport?"}'
