#!/usr/bin/env bash
# What seed 002's scripts do, by the real curl: a text, a chat, the cache (false, then true), a session of three turns,
# a stream, and the errors. llm_service_demos.sh; ROUTER_URL says where, ROUTER_KEY is a key. Prints `what: value`.
set -eu
url=$ROUTER_URL run=$$-$(date +%s%N)

post() { # post PATH DATA [CURL OPTION…]: the body, then the status on a line of its own
    local path=$1 data=$2
    shift 2
    curl --silent --show-error --max-time 60 --write-out '\n%{http_code}' --request POST "$url$path" \
        --header 'Content-Type: application/json' --data "$data" "$@"
}
keyed() { post "$@" --header "X-API-Key: $ROUTER_KEY"; }
tell() { # tell WHAT PYTHON: of the body in `said`, as the seed's scripts read it by jq
    printf '%s: %s\n' "$1" "$(printf '%s' "$said" | sed '$d' | python3 -c "import json, sys; body = json.load(sys.stdin); print($2)")"
}
status() { printf '%s: %s\n' "$1" "$(printf '%s' "$said" | tail -n 1)"; }

said=$(keyed /v1/generate '{"prompt":"Once upon a time","max_tokens":12}')
tell generated 'bool(body["generated_text"])'

ask="{\"prompt\":\"What is a cache? $run\",\"max_tokens\":8}"
for number in first second; do
    said=$(keyed /v1/generate "$ask")
    tell "$number cached" 'body["cached"]'
done

for turn in 1 2 3; do
    said=$(keyed /v1/chat "{\"session_id\":\"demo $run\",\"messages\":[{\"role\":\"user\",\"content\":\"turn $turn\"}]}")
    tell "turn $turn" 'bool(body["message"]["content"])'
done

said=$(keyed /v1/chat '{"messages":[{"role":"user","content":"Hi"}],"stream":true}' --no-buffer)
printf 'stream: %s\n' "$(printf '%s' "$said" | grep -c '^data: ')"
printf 'stream ends: %s\n' "$(printf '%s' "$said" | grep '^data: ' | tail -n 1)"

said=$(post /v1/generate '{"prompt":"Hi"}')
status 'no key'
tell 'no key says' 'body["detail"]["error"]'
said=$(post /v1/generate '{"prompt":"Hi"}' --header 'X-API-Key: wrong')
status 'wrong key'
tell 'wrong key says' 'body["detail"]["error"]'
said=$(keyed /v1/generate '{"prompt":""}')
status 'no prompt'
tell 'no prompt says' 'type(body["detail"]).__name__'
said=$(keyed /v1/generate "{\"prompt\":\"$(printf 'x%.0s' $(seq 4100))\"}")
status 'long prompt'
tell 'long prompt says' '(body["detail"]["error"], body["detail"]["current_length"])'

printf 'took: %s\n' "$(curl --silent --max-time 60 --dump-header - --output /dev/null "$url/health" | grep -ic '^x-process-time: [0-9.]*')"
printf 'health: %s\n' "$(curl --silent --max-time 60 "$url/health" | python3 -c 'import json, sys; print(json.load(sys.stdin)["status"])')"
