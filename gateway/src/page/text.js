// How values are written. Times are UTC, as in logs and events.

/** Milliseconds, for people: `3.2 ms`, `1.24 s`, `2 m 05 s`, `3 h 10 m`, `4 d 02 h`. */
export function duration(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "";
  const n = Math.max(0, ms);
  if (n < 10) return `${n.toFixed(1)} ms`;
  if (n < 1000) return `${Math.round(n)} ms`;
  if (n < 60e3) return `${(n / 1e3).toFixed(n < 10e3 ? 2 : 1)} s`;
  const two = (big, small, a, b) => `${big} ${a} ${String(small).padStart(2, "0")} ${b}`;
  if (n < 3600e3) return two(Math.floor(n / 60e3), Math.floor((n % 60e3) / 1e3), "m", "s");
  if (n < 86400e3) return two(Math.floor(n / 3600e3), Math.floor((n % 3600e3) / 60e3), "h", "m");
  return two(Math.floor(n / 86400e3), Math.floor((n % 86400e3) / 3600e3), "d", "h");
}

/** Whole seconds where a value changes while it is looked at. */
export const running = (ms) => (ms < 60e3 ? `${Math.floor(Math.max(0, ms) / 1e3)} s` : duration(ms));

/** `12:03:44`, with the day if it is another one; UTC. */
export function time(text, now = Date.now(), millis = false) {
  const at = typeof text === "number" ? text : Date.parse(text);
  if (Number.isNaN(at)) return "";
  const iso = new Date(at).toISOString();
  const clock = iso.slice(11, millis ? 23 : 19);
  return iso.slice(0, 10) === new Date(now).toISOString().slice(0, 10) ? clock : `${iso.slice(0, 10)} ${clock}`;
}

/** `1,234`. */
export const count = (n) => (n === null || n === undefined ? "?" : Number(n).toLocaleString("en-US"));

/** Bytes: `12.3 KB`. */
export const bytes = (n) => (n < 1000 ? `${n} B` : n < 1e6 ? `${(n / 1e3).toFixed(1)} KB` : `${(n / 1e6).toFixed(2)} MB`);

/** `timed_out` as words. */
export const words = (text) => String(text ?? "").replaceAll("_", " ");

/** At most so many characters; what was cut is said. */
export const cut = (text, most) => (text.length <= most ? text : `${text.slice(0, most)}… (${count(text.length)} characters)`);

const TONES = {
  running: "busy", retrying: "warn", waiting: "warn", unknown: "bad", completed: "good", completed_with_errors: "warn", failed: "bad",
  timed_out: "bad", halted: "bad", refused: "bad", cancelled: "warn", skipped: "soft", pending: "soft", not_run: "soft",
  normal: "good", alert: "warn", reducing: "warn", hold: "bad", halt: "bad", shutdown: "bad",
  ok: "good", warning: "warn", breached: "bad", missed: "bad", open: "good", unsure: "bad",
};
const SIGNS = {
  running: "▶", retrying: "↻", waiting: "…", unknown: "?", completed: "✓", completed_with_errors: "!", failed: "✕", timed_out: "✕",
  halted: "■", refused: "■", cancelled: "■", skipped: "–", pending: "○", not_run: "○",
};

/** Which colour a state has; what this page does not know is a warning. */
export const tone = (state) => TONES[state] ?? "warn";

/** A sign besides the colour. */
export const sign = (state) => SIGNS[state] ?? "•";

/** Whether an execution has ended; a status that this page does not know has. */
export const ended = (status) => !["running", "waiting", "unknown"].includes(status);
