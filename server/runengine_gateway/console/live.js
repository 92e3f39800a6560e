// Says when something that a view shows may have changed. What has, the view reads itself: so a filter is the
// server's alone, and a stream that drops, breaks off or is refused costs nothing but a moment.

import { follow, pause, session } from "./api.js";

const POLL_MS = 2500;

// Calls `act` at once, and then at most once in `ms`: a call meanwhile is made up for afterwards.
export function throttled(act, ms) {
  let timer = null, again = false;
  const run = async () => {
    again = false;
    timer = setTimeout(() => {
      timer = null;
      if (again) run();
    }, ms);
    await act();
  };
  return () => {
    if (timer === null) run();
    else again = true;
  };
}

// Runs `start(signal)` while the page is seen, there is a token, and `signal` has not aborted: a browser opens six
// connections to a host, and each stream takes one.
export function whileSeen(signal, start) {
  let current = null;
  const check = () => {
    const wanted = document.visibilityState === "visible" && session.token !== null && !signal.aborted;
    if (wanted && current === null) {
      current = new AbortController();
      start(current.signal);
    } else if (!wanted && current !== null) {
      current.abort();
      current = null;
    }
  };
  const restart = () => {
    current?.abort();
    current = null;
    check();
  };
  document.addEventListener("visibilitychange", check, { signal });
  session.addEventListener("token", restart, { signal });
  signal.addEventListener("abort", check);
  check();
}

// Calls `onChange` whenever one of the runs that the stream at `path` is of may have changed, and `onState` with how
// that is known: "live", "polling" or "broken".
export function watchRuns(path, { signal, onChange, onState }) {
  whileSeen(signal, async (seen) => {
    let polling = false;
    const poll = async () => {
      if (polling) return;
      polling = true;
      onState("polling");
      while (!seen.aborted && polling) {
        onChange();
        await pause(POLL_MS, seen);
      }
    };
    try {
      await follow(path, {
        query: { snapshotLimit: 0 },
        signal: seen,
        onEvent: (name) => {
          if (name !== "progress") onChange();
        },
        onState: (state) => {
          if (state === "refused") poll();
          else {
            polling = false;
            onState(state);
          }
        },
      });
    } catch {
      if (!seen.aborted && session.token !== null) await poll();
    }
  });
}
