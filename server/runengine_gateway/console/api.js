// Calls the API with the token, which is kept here and nowhere else, and reads its streams.

const BASE = new URL("../", import.meta.url);

// Tells of `token` (another one, or none), `expired` (the server refuses it) and `reach` (`offline` has changed).
export const session = Object.assign(new EventTarget(), { token: null, offline: false });
const tell = name => session.dispatchEvent(new Event(name));

// What a token says of its bearer; `null` for what is no JWT.
export function claims(token = session.token) {
	try {
		const found = JSON.parse(new TextDecoder().decode(Uint8Array.fromBase64(token.split(".")[1], { alphabet: "base64url" })));
		return { tenant: found.o?.id ?? found.org_id ?? "", user: found.sub, expires: found.exp * 1000 };
	} catch {
		return null;
	}
}

export function setToken(token) {
	session.token = token;
	tell("token");
}

// An error response, or none at all (status 0). The message says what is wrong, and what would be right.
class Problem extends Error {
	constructor(status, { detail = `The server responds with ${status}.`, metadata: { status: is, allowed } = {}, violations = [] } = {}) {
		super([detail, is && !detail.includes(is) && `It is ${is}.`, allowed && `Possible now: ${allowed}.`, ...violations.map(each => `${each.field} ${each.description}.`)].filter(Boolean).join(" "));
		this.status = status;
	}
}

function reach(offline) {
	if (session.offline === offline) return;
	session.offline = offline;
	tell("reach");
}

// Raises Problem. Values of `query` may be lists, or absent.
export async function request(method, path, { query = {}, body, headers, signal } = {}) {
	const url = new URL(path, BASE), { token } = session;
	for (const name in query) for (const each of [query[name]].flat()) if (each || each === 0) url.searchParams.append(name, each);
	let response;
	try {
		response = await fetch(url, { method, signal, credentials: "omit", cache: "no-store", body: body && JSON.stringify(body),
			headers: { authorization: `Bearer ${token}`, ...(body && { "content-type": "application/json" }), ...headers } });
	} catch (error) {
		if (signal?.aborted) throw error;
		reach(true);
		throw new Problem(0, { detail: "The server cannot be reached." });
	}
	const { status, ok } = response;
	reach(status > 501 && status < 505);
	if (ok) return response;
	if (status === 401 && token === session.token) tell("expired");
	throw Object.assign(new Problem(status, await response.json().catch(() => undefined)), { retryAfter: Number(response.headers.get("retry-after")) });
}

export const get = async (path, signal, query) => (await request("GET", path, { query, signal })).json();

const MOST = 5000;

// All pages of a list, as far as a person would look.
export async function all(path, signal, query) {
	const found = [];
	for (let pageToken = ""; pageToken !== null && found.length < MOST;) {
		const page = await get(path, signal, { ...query, pageToken });
		found.push(...page[path.split("/").at(-1)]);
		pageToken = page.nextPageToken;
	}
	return found;
}

// Sends, and again with the same key where no response came, so that it happens once. Returns { body, headers }.
export async function send(method, path, body) {
	const key = crypto.getRandomValues(new Uint32Array(4)).join("-");
	for (let left = 2; ; left -= 1) {
		try {
			const response = await request(method, path, { body, headers: { "idempotency-key": key } });
			return { body: await response.json(), headers: response.headers };
		} catch (error) {
			if (error.status !== 0 || left === 0) throw error;
			await pause(700);
		}
	}
}

export const pause = (ms, signal) => new Promise(resolve => {
	setTimeout(resolve, ms);
	signal?.addEventListener("abort", resolve);
});

async function* eventsOf(response) {
	const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
	for (let rest = "", part = await reader.read(); !part.done; part = await reader.read()) {
		const blocks = (rest + part.value).split("\n\n");
		rest = blocks.pop();
		for (const block of blocks) yield Object.fromEntries(block.split("\n").map(line => line.match(/^(\w+): ?(.*)$/)?.slice(1)).filter(Boolean));
	}
}

// Follows a stream of Server-Sent Events, and comes back where it broke off, until `signal` aborts or nothing is left to
// come: 204, or an end after which `isOver()`. Raises the Problem that waiting does not mend.
export async function follow(path, { query, signal, onEvent, onState, isOver = () => false }) {
	let id, wait = 500;
	while (!signal.aborted) {
		let own;
		try {
			const response = await request("GET", path, { query, signal, headers: id && { "last-event-id": id } });
			if (response.status === 204) return;
			onState("live");
			for await (const event of eventsOf(response)) {
				id = event.id ?? id;
				own = event.retry ?? own;
				if (event.event === "problem") break;
				if (event.event) {
					wait = 500;
					onEvent(event.event, JSON.parse(event.data));
				}
			}
			if (isOver()) return;
		} catch (error) {
			if (signal.aborted) return;
			// 410: what has happened since is not known any more.
			if (error.status === 410) id = null;
			else if (error instanceof Problem && ![0, 429, 502, 503, 504].includes(error.status)) throw error;
			own = error.retryAfter * 1000;
			onState(error.status === 429 ? "refused" : "reconnecting");
		}
		// Not all pages at the same moment.
		await pause((Number(own) || wait) * (0.75 + Math.random() / 2), signal);
		wait = Math.min(wait * 2, 5000);
	}
}
