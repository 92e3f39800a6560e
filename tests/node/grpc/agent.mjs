// Makes the calls that a test asks for: a JSON object a line on stdin, another on stdout.
//
// Asked: {address, method: "package.Service/Method", request, metadata, timeoutMs, cancelAfter}, the request
// as protobuf's JSON mapping has it; `cancelAfter` so many messages, 0 for at once, the call is cancelled.
// Told: {messages, trailer, error: {code, message, details} | null}, messages and details in the same mapping.
import { createInterface } from "node:readline";

export async function serve(call) {
  for await (const line of createInterface({ input: process.stdin })) {
    const told = await call(JSON.parse(line));
    process.stdout.write(`${JSON.stringify(told)}\n`);
  }
  process.exit(0);
}
