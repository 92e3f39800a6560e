// Times, durations, sizes and ids in words.

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const DATE = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long" });

// The clock of the server minus that of this machine, in ms: bars of running steps are drawn by the server's.
let skew = 0;

// Learns from the `updatedAt` of something that has just changed: no clock of ours is behind it.
export function learnClock(text) {
  skew = Math.max(skew, Date.parse(text) - Date.now());
}

// The time now, as the server's clock has it, in ms.
export const now = () => Date.now() + skew;

// 340 ms, 4.2 s, 3 min 5 s, 2 h 10 min, 3 d 4 h.
export function duration(ms) {
  if (ms === null || ms === undefined) return "";
  const seconds = Math.max(0, ms) / 1000;
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${Math.floor(seconds % 60)} s`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
}

// A moment, the shorter the nearer: 14:02:11 today, else with its day.
export function moment(text) {
  if (!text) return "";
  const at = new Date(text);
  return (at.toDateString() === new Date().toDateString() ? CLOCK : DATE).format(at);
}

export const fullMoment = (text) => (text ? FULL.format(new Date(text)) : "");

export function size(bytes) {
  const number = Number(bytes);
  if (number < 1024) return `${number} B`;
  return number < 1024 ** 2 ? `${(number / 1024).toFixed(1)} KiB` : `${(number / 1024 ** 2).toFixed(1)} MiB`;
}

// The end of an id, in which those of the same minute differ.
export const shortId = (id) => id.slice(-8);

export const count = (number, one, many = `${one}s`) => `${number.toLocaleString()} ${number === 1 ? one : many}`;

// What a run shows as its status: one that waits for somebody is not at work.
export const statusOf = (run) => (run.waitingFor ? "waiting" : run.status);

export const isActive = (run) => run.status === "queued" || run.status === "running";

export const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$/i;
