// Says when what a view shows may have changed. The view then reads it anew: filters are the server's alone.

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

export function every(ms, signal, act) {
	const timer = setInterval(act, ms);
	signal.addEventListener("abort", () => clearInterval(timer));
}

// Runs `start(signal)` while the page is seen and has a token: each stream takes one of a browser's six connections.
export function whileSeen(signal, start) {
	let current;
	const check = ({ type } = {}) => {
		const wanted = !document.hidden && session.token && !signal.aborted;
		if (!wanted || type === "token") current = current?.abort();
		if (wanted && !current) start((current = new AbortController()).signal);
	};
	document.addEventListener("visibilitychange", check, { signal });
	session.addEventListener("token", check, { signal });
	signal.addEventListener("abort", check);
	check();
}

// Calls `onChange` whenever runs may have changed, `onState` with "live", "polling" (no stream is to be had) or "reconnecting".
export function watchRuns(path, { signal, onChange, onState }) {
	whileSeen(signal, async seen => {
		let polling = false;
		const poll = async () => {
			if (polling) return;
			onState("polling");
			for (polling = true; polling && !seen.aborted; await pause(POLL_MS, seen)) onChange();
		};
		const hear = state => {
			if (state === "refused") return poll();
			polling = false;
			return onState(state);
		};
		await follow(path, { query: { snapshotLimit: 0 }, signal: seen, onEvent: name => CHANGES.includes(name) && onChange(), onState: hear }).catch(poll);
	});
}
