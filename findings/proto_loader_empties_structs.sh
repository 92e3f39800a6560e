#!/bin/sh
# @grpc/proto-loader: a plain object for a google.protobuf.Struct is sent as an empty Struct, without an error.
#
# One would guess: {payload: {city: "Bern"}} arrives as {"city": "Bern"}, as with every other library for JavaScript
#   (connect's protobuf-es takes a Struct for a plain object), or is refused.
# What happens: the field is sent, empty. Nothing throws, nothing warns, and the server sees what a client that
#   meant {} sends.
# Source: @grpc/proto-loader 0.8.1 (protobufjs 7.6.6) and 0.6.13 (protobufjs 6): protobufjs' fromObject takes the
#   members that the .proto file names, here `fields`, and leaves out all others; of the well-known types it has
#   a mapping (src/wrappers.js) for Any alone.
# Why it matters: data is lost on the way out with a status of OK. What to do: build {fields: {city: {stringValue:
#   "Bern"}}} by a function of twenty lines (docs/clients.md has one).
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm init -y >/dev/null
npm install --silent --no-audit --no-fund --save-exact \
  @grpc/grpc-js@1.14.7 @grpc/proto-loader@0.8.1 proto-loader-6@npm:@grpc/proto-loader@0.6.13 protobufjs@7.6.6
cat >echo.proto <<'PROTO'
syntax = "proto3";
import "google/protobuf/struct.proto";
service Echo { rpc Say(Message) returns (Message); }
message Message { google.protobuf.Struct payload = 1; }
PROTO
cat >say.js <<'JS'
const grpc = require("@grpc/grpc-js");
const json = JSON.stringify;

async function say(loader, payload) {
  const { Echo } = grpc.loadPackageDefinition(require(loader).loadSync("echo.proto"));
  const server = new grpc.Server();
  let received;
  server.addService(Echo.service, { Say: ({ request }, answer) => answer(null, (received = request)) });
  const port = await new Promise((resolve) =>
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (_, bound) => resolve(bound)));
  const client = new Echo(`127.0.0.1:${port}`, grpc.credentials.createInsecure());
  const error = await new Promise((resolve) => client.say({ payload }, resolve));
  client.close();
  server.forceShutdown();
  return `${error ? error.message : "OK"}, received ${json(received)}`;
}

(async () => {
  const built = { fields: { city: { stringValue: "Bern" } } };
  let changed = false;
  for (const loader of ["@grpc/proto-loader", "proto-loader-6"]) {
    console.log(`proto-loader ${require(`${loader}/package.json`).version}`);
    const [plain, right] = [await say(loader, { city: "Bern" }), await say(loader, built)];
    console.log(`  {city: "Bern"}: ${plain}`);
    console.log(`  ${json(built)}: ${right}`);
    changed ||= plain !== 'OK, received {"payload":{}}';
    changed ||= !right.includes("Bern");
  }
  process.exit(changed ? 1 : 0);
})();
JS
node say.js
