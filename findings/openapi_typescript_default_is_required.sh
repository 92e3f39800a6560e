#!/usr/bin/env bash
# An optional member of a request body that has a `default` is required in what openapi-typescript makes.
#
# One would guess: `default` says what the server takes when the member is left out, so it stays optional.
# What happens: the option --default-non-nullable is on unless told otherwise, and counts for requests as it
#   does for responses: `priority: number`, so that `{name: 'x'}` does not compile.
# Source: openapi-typescript 7.13.0, `defaultNonNullable` in its CLI documentation and in
#   transform/schema-object; OpenAPI 3.1, JSON Schema validation 9.2 (`default` is an annotation alone).
# Why it matters: a document that is read by every generator tells defaults in words.
set -euo pipefail
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund openapi-typescript@7.13.0 typescript@5.9.3
cat >document.json <<'JSON'
{"openapi": "3.1.0", "info": {"title": "T", "version": "1"}, "paths": {},
 "components": {"schemas": {"Request": {"type": "object", "required": ["name"], "properties": {
   "name": {"type": "string"},
   "priority": {"type": "integer", "default": 0},
   "plain": {"type": "integer"}}}}}}
JSON
echo "const request: import('./schema').components['schemas']['Request'] = { name: 'x' };" >use.ts
npx openapi-typescript --version
npx openapi-typescript document.json -o schema.d.ts >/dev/null 2>&1
grep -E 'name|priority|plain' schema.d.ts
grep -q 'plain?: number' schema.d.ts
grep -q 'priority: number' schema.d.ts || { echo "CHANGED: a default leaves its member optional"; exit 1; }
if npx tsc --noEmit --strict use.ts; then
  echo "CHANGED: the body without the member compiles"
  exit 1
fi
npx openapi-typescript document.json --default-non-nullable false -o schema.d.ts >/dev/null 2>&1
npx tsc --noEmit --strict use.ts
echo "SEEN: required with a default, optional with --default-non-nullable false"
