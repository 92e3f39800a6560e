// @grpc/grpc-js, with the .proto files loaded as they are published. Arguments: the protos, the loader.
import { createRequire } from "node:module";
import grpc from "@grpc/grpc-js";
import { serve } from "./agent.mjs";
import { fromStruct, toStruct, toValue } from "./struct.mjs";

const [protos, loaderName] = process.argv.slice(2);
const require = createRequire(import.meta.url);
const loader = require(loaderName);
const includeDirs = [protos, `${protos}/vendor`];
const options = { includeDirs, longs: String, enums: String, bytes: String };
const definition = loader.loadSync(
  ["run_service", "campaign_service", "artifact_service"].map((name) => `runengine/v1/${name}.proto`),
  options,
);

// What proto-loader itself reads with, of the same version.
const protobuf = createRequire(require.resolve(loaderName))("protobufjs");
const errors = new protobuf.Root();
errors.resolvePath = (_, target) =>
  protobuf.common.get(target) ? target : `${protos}/vendor/${target}`;
errors.loadSync(["google/rpc/status.proto", "google/rpc/error_details.proto"]);

const keepalive = {
  "grpc.keepalive_time_ms": 4000,
  "grpc.keepalive_timeout_ms": 5000,
  "grpc.keepalive_permit_without_calls": 1,
};
const clients = new Map();
const clientOf = (address, service) => {
  const key = `${address} ${service}`;
  if (!clients.has(key)) {
    const Client = grpc.loadPackageDefinition(definition).runengine.v1[service.split(".").pop()];
    clients.set(key, new Client(address, grpc.credentials.createInsecure(), keepalive));
  }
  return clients.get(key);
};

const STRUCTS = ["triggerPayload", "context"];

function field(key, value) {
  if (STRUCTS.includes(key) && value) return toStruct(value);
  if (key === "values") return toStruct(value).fields;
  return key === "value" ? toValue(value) : value;
}

function request(asked) {
  return Object.fromEntries(Object.entries(asked).map(([key, value]) => [key, field(key, value)]));
}

/** protobuf's JSON mapping of what proto-loader makes of a message. */
function json(value, key) {
  if (STRUCTS.includes(key)) return fromStruct(value);
  if (Array.isArray(value)) return value.map((each) => json(each));
  if (value === null || typeof value !== "object") return value;
  if (/^at$|At$/.test(key)) return new Date(Number(value.seconds ?? 0) * 1000 + (value.nanos ?? 0) / 1e6).toISOString();
  return Object.fromEntries(Object.entries(value).map(([name, each]) => [name, json(each, name)]));
}

function explain(error) {
  const [bytes] = error.metadata?.get("grpc-status-details-bin") ?? [];
  const details = bytes ? errors.lookupType("google.rpc.Status").decode(bytes).details : [];
  return {
    code: grpc.status[error.code],
    message: error.details,
    details: details.map(({ type_url, value }) => {
      const type = errors.lookupType(type_url.split("/").pop());
      return { "@type": type_url, ...type.toObject(type.decode(value), { longs: String }) };
    }),
  };
}

await serve(({ address, method, request: asked, metadata, timeoutMs, cancelAfter }) => {
  const [service, name] = method.split("/");
  const client = clientOf(address, service);
  const headers = new grpc.Metadata();
  for (const [key, value] of Object.entries(metadata)) headers.set(key, value);
  const callOptions = timeoutMs === null ? {} : { deadline: Date.now() + timeoutMs };
  const told = { messages: [], trailer: {}, error: null };
  return new Promise((resolve) => {
    const read = (message) => {
      told.messages.push(json(message));
      if (told.messages.length === cancelAfter) call.cancel();
    };
    const end = (error) => {
      if (error) told.error = explain(error); // a stream that fails ends afterwards
      resolve(told); // what waits for it goes on after the event below
    };
    let call;
    if (client[name].responseStream) {
      call = client[name](request(asked), headers, callOptions);
      call.on("data", read).on("error", end).on("end", () => end(null));
    } else {
      call = client[name](request(asked), headers, callOptions, (error, message) => {
        if (message) read(message);
        end(error);
      });
    }
    call.on("status", (status) => Object.assign(told.trailer, status.metadata.getMap()));
    if (cancelAfter === 0) call.cancel();
  });
});
