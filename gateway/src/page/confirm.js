// Who has confirmed the flags that stop something. Counted by the gateway where it does that; else by what
// each worker says it has seen.

import { get } from "./api.js";
import { flags, heard, on, tell } from "./state.js";

const EVERY = 1000;
const STOPS = new Set(["reducing", "hold", "halt", "shutdown"]);
let workers = null; // of the last answer while something is stopped
let timer = null;

/** Whether a flag of that state stops something. */
export const stops = (state) => STOPS.has(state);

/** `{ confirmed, total, silent, open, complete }` of a flag; `open` and `complete` are null where nobody counts them; null if not known. */
export function confirmation(flag) {
  if (!stops(flag.state) || !heard()) return null;
  if (flag.workers) {
    const { confirmed, total, complete = null, silent = [], open = null } = flag.workers;
    return { confirmed, total, silent, open, complete };
  }
  if (!workers || !flag.rev) return null;
  const silent = workers.filter((w) => w.control_revision < flag.rev).map((w) => w.worker_id);
  return { confirmed: workers.length - silent.length, total: workers.length, silent, open: null, complete: null };
}

/** In words. */
export function confirmed(flag) {
  if (!stops(flag.state)) return "";
  const c = confirmation(flag);
  if (!c) return "who has confirmed it is not known";
  const names = c.silent.slice(0, 6).join(", ") + (c.silent.length > 6 ? ` and ${c.silent.length - 6} more` : "");
  return [
    `${c.confirmed} of ${c.total} workers confirmed`,
    c.silent.length ? `silent: ${names}` : "",
    c.open ? `${c.open} side effect${c.open === 1 ? "" : "s"} in flight or not known` : "",
    c.complete ? "nothing that it covers can start or is in flight" : "",
  ].filter(Boolean).join("; ");
}

async function read() {
  timer = null;
  const wanted = [...flags.values()].some((f) => stops(f.state) && !f.workers);
  if (!wanted || !heard()) { workers = null; return; }
  const answer = await get("/v1/workers", { timeout: 4000 });
  workers = answer.ok ? answer.body.workers : null;
  tell("confirmed");
  timer ??= setTimeout(read, EVERY);
}

const begin = () => { if (!timer) timer = setTimeout(read, 0); };
on("flags", begin);
on("link", begin);
