// Says when what a view shows may have changed. The view then reads it anew: so filters are the server's alone, and a
// stream that breaks off or is refused costs a moment and nothing else.

import { follow, pause, session } from "./api.js";

const POLL_MS = 2500;
const CHANGES = ["snapshotEnd", "transition"];

// Calls `act` at once, and then once in `ms` at most: a call meanwhile is made up for.
export function throttled(act, ms) {
	let waiting = false, again = false;
	return function run() {
		again = waiting;
		if (waiting) return;
		waiting = true;
		setTimeout(() => {
			waiting = false;
			if (again) run();
		}, ms);
		act();
	};
}

// Runs `start(signal)` while the page is seen and has a token: a browser opens six connections to a host, and each
// stream takes one.
export function whileSeen(signal, start) {
	let current = null;
	const check = ({ type } = {}) => {
		const wanted = !document.hidden && session.token && !signal.aborted;
		if (current && (!wanted || type === "token")) {
			current.abort();
			current = null;
		}
		if (wanted && !current) start((current = new AbortController()).signal);
	};
	document.addEventListener("visibilitychange", check, { signal });
	session.addEventListener("token", check, { signal });
	signal.addEventListener("abort", check);
	check();
}

// Calls `onChange` whenever runs of the stream at `path` may have changed, and `onState` with "live", "polling" (where
// there is no stream to be had) or "broken".
export function watchRuns(path, { signal, onChange, onState }) {
	whileSeen(signal, async (seen) => {
		let polling = false;
		const poll = async () => {
			if (polling) return;
			for (polling = true; polling && !seen.aborted; await pause(POLL_MS, seen)) {
				onState("polling");
				onChange();
			}
		};
		const hear = (state) => {
			if (state === "refused") return poll();
			polling = false;
			return onState(state);
		};
		await follow(path, { query: { snapshotLimit: 0 }, signal: seen, onEvent: (name) => CHANGES.includes(name) && onChange(), onState: hear }).catch(poll);
	});
}
