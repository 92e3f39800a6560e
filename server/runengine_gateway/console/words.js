// Times, durations, sizes and ids in words.

import { h } from "./dom.js";

const format = (timeStyle, dateStyle) => new Intl.DateTimeFormat(undefined, { dateStyle, timeStyle });
const CLOCK = format("medium"), DATE = format("short", "medium"), FULL = format("long", "medium");
const UNITS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];

let skew = 0;

// Learns how far this machine's clock is behind the server's, from the time of what has just changed.
export const learnClock = text => { skew = Math.max(skew, Date.parse(text) - Date.now()); };

// The time by the server's clock, in ms.
export const now = () => Date.now() + skew;

export function duration(ms) {
	if (ms == null) return "";
	const seconds = Math.max(0, ms) / 1000;
	for (const [unit, name, part, small] of UNITS) if (seconds >= unit) return `${Math.floor(seconds / unit)} ${name} ${Math.floor((seconds % unit) / part)} ${small}`;
	return seconds < 1 ? `${Math.round(seconds * 1000)} ms` : `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
}

// Today the time alone, else with its day.
export function when(text) {
	const at = new Date(text), isToday = at.toDateString() === new Date().toDateString();
	return h("time", { datetime: text, title: FULL.format(at) }, (isToday ? CLOCK : DATE).format(at));
}

export const sizeText = bytes => (bytes < 1024 ? `${bytes} B` : bytes < 1024 ** 2 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / 1024 ** 2).toFixed(1)} MiB`);

export const plural = (number, word) => `${number.toLocaleString()} ${word}${number === 1 ? "" : "s"}`;

export const isActive = ({ status }) => status === "queued" || status === "running";

// A run that waits for somebody is not at work.
export const statusOf = run => (run.waitingFor ? "waiting" : run.status);

export const tookOf = ({ durationMs, status, startedAt }) => duration(durationMs ?? (status === "running" && startedAt ? now() - Date.parse(startedAt) : null));

export const UUID = /[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}/;
