// What @clerk/backend says of tokens. Reads lines of JSON, {name, token, key, issuer, parties}, and writes for each
// {name, verifyToken, authenticateRequest}: "refused", or "subject@organisation" ("-" for none) and, after an
// impersonated one, " by impersonator". verifyToken knows neither organisations nor impersonators.
import { createInterface } from "node:readline";
import { createClerkClient, verifyToken } from "@clerk/backend";

// authenticateRequest wants the keys of an instance, though none is used for a JWT. Nothing listens at the address.
const client = createClerkClient({
  secretKey: "sk_test_none",
  publishableKey: `pk_test_${btoa("none.clerk.accounts.dev$")}`,
  apiUrl: "http://127.0.0.1:9",
  telemetry: { disabled: true },
});

async function byVerifyToken(token, options) {
  try {
    return `${(await verifyToken(token, options)).sub}@-`;
  } catch {
    return "refused";
  }
}

async function byAuthenticateRequest(token, options) {
  try {
    const request = new Request("http://runengine.example/", { headers: { authorization: `Bearer ${token}` } });
    const acceptsToken = ["session_token", "m2m_token"];
    const auth = (await client.authenticateRequest(request, { ...options, acceptsToken })).toAuth();
    if (!auth?.isAuthenticated) return "refused";
    const impersonator = auth.actor ? ` by ${auth.actor.sub}` : "";
    return `${auth.userId ?? auth.machineId}@${auth.orgId ?? "-"}${impersonator}`;
  } catch {
    return "refused";
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const { name, token, key, issuer, parties } = JSON.parse(line);
  const options = { jwtKey: key, issuer, authorizedParties: parties };
  const verdicts = {
    name,
    verifyToken: await byVerifyToken(token, options),
    authenticateRequest: await byAuthenticateRequest(token, options),
  };
  process.stdout.write(`${JSON.stringify(verdicts)}\n`);
}
