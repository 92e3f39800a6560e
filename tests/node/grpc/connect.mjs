// @connectrpc/connect-node, with what @bufbuild/protoc-gen-es has generated. Argument: where that is.
import { createRegistry, fromJson, toJson } from "@bufbuild/protobuf";
import { anyUnpack } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { serve } from "./agent.mjs";

const [generated] = process.argv.slice(2);
const load = (name) => import(`${generated}/${name}_pb.js`);
const { RunService } = await load("runengine/v1/run_service");
const { CampaignService } = await load("runengine/v1/campaign_service");
const { ArtifactService } = await load("runengine/v1/artifact_service");
const { file_google_rpc_error_details: errorDetails } = await load("google/rpc/error_details");
const services = Object.fromEntries(
  [RunService, CampaignService, ArtifactService].map((service) => [service.typeName, service]),
);
const registry = createRegistry(errorDetails);

const transports = new Map();
const keepalive = { pingIntervalMs: 4000, pingTimeoutMs: 5000, pingIdleConnection: true };
const transportTo = (address) => {
  if (!transports.has(address)) {
    transports.set(address, createGrpcTransport({ baseUrl: `http://${address}`, ...keepalive }));
  }
  return transports.get(address);
};

function explain(error) {
  const { code, rawMessage, details } = ConnectError.from(error);
  return {
    // InvalidArgument, and Canceled, with one l.
    code: Code[code].replace(/(?<=[a-z])(?=[A-Z])/g, "_").toUpperCase().replace("CANCELED", "CANCELLED"),
    message: rawMessage,
    details: details.map(({ type, value }) => {
      const schema = registry.getMessage(type);
      const detail = anyUnpack({ $typeName: "google.protobuf.Any", typeUrl: `/${type}`, value }, schema);
      return { "@type": `type.googleapis.com/${type}`, ...toJson(schema, detail) };
    }),
  };
}

await serve(async ({ address, method, request, metadata, timeoutMs, cancelAfter }) => {
  const [service, name] = method.split("/");
  const rpc = services[service].methods.find((each) => each.name === name);
  const client = createClient(services[service], transportTo(address));
  const cancelling = new AbortController();
  const told = { messages: [], trailer: {}, error: null };
  const options = {
    headers: metadata,
    timeoutMs: timeoutMs ?? undefined,
    signal: cancelling.signal,
    onTrailer: (trailer) => Object.assign(told.trailer, Object.fromEntries(trailer)),
  };
  const read = (message) => {
    told.messages.push(toJson(rpc.output, message));
    if (told.messages.length === cancelAfter) cancelling.abort();
  };
  try {
    const answer = client[rpc.localName](fromJson(rpc.input, request), options);
    if (cancelAfter === 0) cancelling.abort();
    if (rpc.methodKind === "unary") read(await answer);
    else for await (const message of answer) read(message);
  } catch (error) {
    told.error = explain(error);
  }
  return told;
});
