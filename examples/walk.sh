#!/bin/sh
# A walk through the REST API with curl: a campaign, a run, its steps, its timeline, the list, the bundle.
#
#   export RUNENGINE_TOKEN=$(.venv/bin/runengine-server token --org org_demo)
#   sh examples/walk.sh praise-order '{"item": "kettle"}'
set -eu
url=${RUNENGINE_URL:-http://127.0.0.1:8080}
workflow=${1:?give the name of a workflow, such as praise-order, and its payload}
payload=${2:?give the payload as JSON, as above}

# METHOD PATH [BODY] -> the body of the response; an error's body too, so that it can be read.
call() {
  curl -sS -X "$1" "$url$2" -H "authorization: Bearer $RUNENGINE_TOKEN" \
    -H 'content-type: application/json' ${3:+-d "$3"}
}

# The member of the JSON object on stdin; empty where it is null.
member() {
  python3 -c 'import json, sys; value = json.load(sys.stdin)[sys.argv[1]]; print("" if value is None else value)' "$1"
}

campaign=$(call POST /campaigns | member id)
echo "campaign $campaign"
# The same key with the same body triggers one run, however often it is sent.
run=$(curl -sS "$url/runs" -H "authorization: Bearer $RUNENGINE_TOKEN" -H 'content-type: application/json' \
  -H "idempotency-key: walk-$campaign" \
  -d "{\"workflowName\": \"$workflow\", \"triggerPayload\": $payload, \"context\": {\"campaignId\": \"$campaign\"}}" |
  member id)
echo "run $run"

status=queued
while [ "$status" = queued ] || [ "$status" = running ]; do
  sleep 0.2
  status=$(call GET "/runs/$run" | member status)
done
echo "status $status"
echo "steps $(call GET "/runs/$run/steps")"
echo "events $(call GET "/runs/$run/events")"
echo "failed runs of the campaign $(call GET "/campaigns/$campaign/runs?status=failed&limit=5" | member total)"
echo "a retry of a completed run $(call POST "/runs/$run/retry" | member reason)"

bundle=$(call GET "/campaigns/$campaign" | member bundleUrl)
[ -z "$bundle" ] || curl -sS "$bundle" -H "authorization: Bearer $RUNENGINE_TOKEN"
