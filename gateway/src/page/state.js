// What the page knows: the connection, the control flags, the time. Everything here comes from the
// gateway; while it cannot be heard, everything is unknown and the time stands still.

import { Haltline } from "/client/haltline.js";
import { clockOff, get, me } from "./api.js";

const HEALTH_EVERY = 4000; // as often as a person looks
const HEALTH_LATE = 4000; // a gateway that does not answer within this is not heard, whatever the socket says
const SUMMARY = ["execution_*", "risk_*", "emergency_*", "node_unknown"];

/** The connection: `state` as haltline.js tells it, `late` if the gateway does not answer although the socket is open. */
export const link = { state: "connecting", reason: "", since: Date.now(), late: false, everOpen: false, seq: null, epoch: null, asOf: null, gaps: 0 };
/** The last `/health`, or null while it is not known. */
export const health = { body: null, at: null };
/** Flags by scope: `global` always if known, others while they are not normal. */
export const flags = new Map();

const listeners = new Map();
/** Calls `f` at each `kind`; returns what ends that. Kinds: link, flags, event, fresh (read anew), tick, health, login. */
export function on(kind, f) {
  if (!listeners.has(kind)) listeners.set(kind, new Set());
  listeners.get(kind).add(f);
  return () => listeners.get(kind).delete(f);
}
/** Tells those who listen. */
export function tell(kind, what) {
  for (const f of [...(listeners.get(kind) ?? [])]) {
    try { f(what); } catch (e) { console.error(e); }
  }
}

/** Whether what is shown is true now. */
export const heard = () => link.state === "open" && !link.late;

let stopped = Date.now();
/** When it was last heard, by the gateway's time. */
export const lastHeard = () => stopped;
/** The gateway's time; stands still while it is not heard. */
export const now = () => (heard() ? Date.now() + clockOff : stopped);

/** The flag over everything as it can be vouched for: `unknown` unless it is certain. */
export function globalFlag() {
  const flag = flags.get("global");
  if (!heard() || !flag || flag.sure === false) return { ...(flag ?? { scope: "global", by: "", reason: "", ts: null }), last: flag?.state, state: "unknown" };
  return flag;
}

let client = null;
let generation = 0;
/** The client, for subscriptions of views; null before the first connection. */
export const socket = () => client;

/** Connects, or connects anew after a login. */
export function connect() {
  const mine = ++generation;
  client?.close();
  client = new Haltline({
    name: "dashboard",
    onState(s) {
      if (mine !== generation) return; // the end of a connection that was given up
      const was = heard();
      Object.assign(link, { state: s.state, reason: s.reason, since: s.since });
      changed(was);
      if (s.state === "closed") tell("login", s.reason);
    },
    onWelcome(w) {
      flags.clear();
      if (me.role === null && w.role) me.role = w.role;
      link.everOpen = true;
      place(w.head);
      readHealth();
    },
    onHalt(flag) {
      if (flag.scope !== "global" && flag.state === "normal") flags.delete(flag.scope);
      else flags.set(flag.scope, flag);
      tell("flags", flag);
    },
    onMark: place,
    onPing(p) { place(p.head); },
    onError(e) { console.warn("haltline:", e.code, e.msg); },
  });
  client.subscribe({ filter: { type: SUMMARY }, from: { live: true } }, {
    event(e, { cursor }) { place(cursor); tell("event", e); },
    live: place,
    gap() { gap(); },
    error(e) { console.warn("haltline:", e.code, e.msg); },
  });
}

/** Something was missed: what is shown is read anew. */
export function gap() {
  link.gaps++;
  tell("fresh", "gap");
}

/** Everything up to `cursor` has been told. */
export function place(cursor) {
  const [epoch, seq] = String(cursor).split(".");
  link.epoch = epoch;
  link.seq = Number(seq);
  link.asOf = Date.now() + clockOff;
  if (link.late) { const was = heard(); link.late = false; changed(was); }
  tell("place");
}

function changed(was) {
  if (was && !heard()) stopped = Date.now() + clockOff;
  if (!was && heard()) tell("fresh", "heard again");
  tell("link");
}

let reading = false;
async function readHealth() {
  if (reading || link.state !== "open") return;
  reading = true;
  const mine = client;
  // 503 is an answer: a part is missing, and the body says which.
  const answer = await get("/health", { timeout: HEALTH_LATE });
  reading = false;
  if (mine !== client) return;
  const was = heard();
  if (answer.status !== 0) {
    health.body = answer.body?.status ? answer.body : null;
    health.at = Date.now() + clockOff;
    link.late = false;
  } else if (link.state === "open") {
    link.late = true;
  }
  changed(was);
  tell("health");
}

setInterval(() => { if (!document.hidden || link.late) readHealth(); }, HEALTH_EVERY);
document.addEventListener("visibilitychange", () => { if (!document.hidden) readHealth(); });
setInterval(() => { if (heard()) tell("tick"); }, 1000);
