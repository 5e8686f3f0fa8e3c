// Haltline's event client: follows the log over the WebSocket `/v1/ws` (gateway/PROTOCOL.md), comes back
// by itself, and tells what it does not have. No dependencies; runs in browsers, Deno, Bun and Node (there
// with `WebSocket` from ws before Node 22). Types are in haltline.d.ts beside it.

export const PROTOCOL = "haltline.v1.json";
const RETRY_MS = [250, 15000]; // first and longest delay; each is drawn at random up to it
const SEEN_MAX = 4096; // ids of events kept to drop repeats after a reconnect
const GREETING_MS = 15000; // a gateway that does not welcome within this is given up
const REFRESH_MS = 60000; // a token is renewed this long before its end

/** A connection to a gateway, with any number of subscriptions that survive it. */
export class Haltline {
  #options;
  #socket = null;
  #subs = new Map();
  #next = 1;
  #tries = 0;
  #timers = { retry: null, silence: null, refresh: null };
  #welcome = null;
  #closed = false;
  #refused = false; // the token was refused once since the last welcome
  #state = { state: "connecting", reason: "", since: Date.now() };

  constructor(options = {}) {
    this.#options = { url: defaultUrl(), name: "haltline.js", ...options };
    this.#options.WebSocket ??= globalThis.WebSocket;
    if (!this.#options.WebSocket) throw new Error("there is no WebSocket here: give one in the options");
    this.#connect();
  }

  /** How the connection stands: `connecting`, `open`, `lost` (comes back) or `closed` (does not). */
  get state() { return this.#state; }
  /** What the gateway said of itself, or null while there is none. */
  get welcome() { return this.#welcome; }

  /**
   * Starts a subscription. It goes on over any number of connections until `close()`.
   * Handlers: event(event, {cursor, count}), gap(gap), snapshot(items, {at, more}), live(cursor),
   * began(subd), error(err).
   */
  subscribe(what = {}, handlers = {}) {
    const sub = {
      id: `s${this.#next++}`, filter: what.filter ?? {}, from: what.from ?? { live: true }, ifGap: what.ifGap, mode: what.mode,
      handlers, cursor: null, count: 0, seen: new Set(), live: false, parts: [], rid: 0,
    };
    this.#subs.set(sub.id, sub);
    if (this.#welcome) this.#begin(sub);
    return {
      get cursor() { return sub.cursor; },
      get live() { return sub.live; },
      close: () => {
        if (this.#subs.delete(sub.id)) this.#send({ t: "unsub", id: sub.id });
      },
    };
  }

  /** Ends it for good. */
  close() {
    this.#closed = true;
    this.#drop();
    this.#become("closed", "closed by the client");
  }

  async #connect() {
    clearTimeout(this.#timers.retry);
    this.#become("connecting", "");
    let token;
    try {
      token = typeof this.#options.token === "function" ? await this.#options.token() : this.#options.token;
    } catch (e) {
      return this.#again(`no token: ${e?.message ?? e}`);
    }
    if (this.#closed) return;
    let socket;
    try {
      socket = new this.#options.WebSocket(this.#options.url, [PROTOCOL], this.#options.socketOptions);
    } catch (e) {
      return this.#again(String(e?.message ?? e));
    }
    this.#socket = socket;
    // Events of a socket that was given up count no more.
    const mine = (act) => (e) => { if (this.#socket === socket) act(e); };
    socket.onopen = mine(() => this.#send({ t: "hello", v: 1, token, client: { name: this.#options.name } }));
    socket.onmessage = mine((m) => this.#frame(m.data));
    socket.onclose = mine((e) => this.#ended(e.code, e.reason));
    socket.onerror = () => {}; // a close follows, which says as much
    this.#heard(GREETING_MS);
  }

  #send(frame) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(frame));
  }

  #become(state, reason) {
    this.#state = { state, reason, since: Date.now() };
    call(this.#options.onState, this.#state);
  }

  // Silence means that the link is lost: the gateway pings.
  #heard(ms) {
    clearTimeout(this.#timers.silence);
    this.#timers.silence = setTimeout(() => this.#ended(0, "nothing heard"), ms);
  }

  #drop() {
    Object.values(this.#timers).forEach(clearTimeout);
    const socket = this.#socket;
    this.#socket = null;
    this.#welcome = null;
    for (const sub of this.#subs.values()) sub.live = false;
    if (socket && socket.readyState < 2) socket.close();
  }

  #ended(code, reason, after) {
    this.#drop();
    if (code === 4501 && typeof this.#options.token === "function" && !this.#refused) {
      this.#refused = true; // a fresh one may be good
    } else if (code >= 4500 && code < 5000) {
      this.#closed = true;
      return this.#become("closed", reason || `closed with ${code}`);
    }
    this.#again(reason || (code ? `closed with ${code}` : "not reached"), after);
  }

  #again(reason, after) {
    if (this.#closed) return;
    const most = Math.min(RETRY_MS[1], RETRY_MS[0] * 2 ** Math.min(this.#tries++, 10));
    // At random, so that not everyone comes at once.
    const delay = after ?? RETRY_MS[0] / 2 + Math.random() * most;
    this.#become("lost", reason);
    this.#timers.retry = setTimeout(() => this.#connect(), delay);
  }

  #begin(sub) {
    // Where it has been, else where it was to start.
    const from = sub.cursor ? { cursor: sub.cursor } : sub.from;
    Object.assign(sub, { count: 0, live: false, parts: [], rid: this.#next++ });
    this.#send({ t: "sub", rid: sub.rid, id: sub.id, filter: sub.filter, from, if_gap: sub.ifGap, mode: sub.mode });
  }

  #frame(text) {
    let f;
    try { f = JSON.parse(text); } catch { return this.#ended(0, "a frame that is no JSON"); }
    const w = this.#welcome;
    this.#heard(w ? w.ping_ms + w.pong_ms + 5000 : GREETING_MS);
    const sub = f.id ? this.#subs.get(f.id) : undefined;
    switch (f.t) {
      case "welcome": return this.#welcomed(f);
      case "ping":
        this.#send({ t: "pong" });
        return call(this.#options.onPing, f);
      case "halt": return call(this.#options.onHalt, f);
      case "ev": return this.#event(f);
      case "mark":
        for (const s of this.#subs.values()) if (s.live) s.cursor = f.c;
        return call(this.#options.onMark, f.c);
      case "bye": if (f.reconnect) { this.#ended(f.code, f.reason, f.after_ms); } return;
      case "authed": return this.#refreshAt(f.until);
      case "err": return this.#refusedFrame(f);
    }
    if (!sub) return;
    switch (f.t) {
      case "subd":
        // Until the gap was told, the place before it counts: who is cut off in between is told again.
        if (f.recovered) sub.cursor = f.from;
        return call(sub.handlers.began, f);
      case "snap":
        sub.parts.push(...f.items);
        if (f.last) {
          sub.cursor = f.at;
          call(sub.handlers.snapshot, sub.parts, { at: f.at, more: !!f.more });
          sub.parts = [];
        }
        return;
      case "gap":
        // The place itself is told by the next event, mark or live.
        return call(sub.handlers.gap, f);
      case "live":
        sub.live = true;
        sub.cursor = f.c;
        return call(sub.handlers.live, f.c);
    }
  }

  #welcomed(f) {
    this.#welcome = f;
    this.#tries = 0;
    this.#refused = false;
    this.#heard(f.ping_ms + f.pong_ms + 5000);
    this.#refreshAt(f.until);
    this.#become("open", "");
    call(this.#options.onWelcome, f);
    for (const halt of [f.halt, ...(f.scoped ?? [])]) call(this.#options.onHalt, halt);
    for (const sub of this.#subs.values()) this.#begin(sub);
  }

  #refreshAt(until) {
    clearTimeout(this.#timers.refresh);
    if (!until || typeof this.#options.token !== "function") return;
    const left = Math.max(0, Date.parse(until) - Date.now() - REFRESH_MS);
    this.#timers.refresh = setTimeout(async () => {
      // A failure shows when the token ends: the connection does, and another begins.
      try { this.#send({ t: "auth", token: await this.#options.token() }); } catch { /* see above */ }
    }, Math.min(left, 2 ** 31 - 1));
  }

  #event(f) {
    for (const [id, count] of Object.entries(f.s)) {
      const sub = this.#subs.get(id);
      if (!sub) continue;
      // Counters have no holes, unless what waits may be conflated.
      if (sub.mode !== "conflate" && count !== sub.count + 1) {
        return this.#ended(0, `an event is missing: counter ${count} after ${sub.count}`);
      }
      sub.count = count;
      sub.cursor = f.c;
      if (sub.seen.has(f.d.id)) continue; // again after a reconnect
      sub.seen.add(f.d.id);
      if (sub.seen.size > SEEN_MAX) sub.seen.delete(sub.seen.values().next().value);
      call(sub.handlers.event, f.d, { cursor: f.c, count });
    }
  }

  #refusedFrame(f) {
    const sub = [...this.#subs.values()].find((s) => s.rid === f.rid);
    if (!sub) return call(this.#options.onError, f);
    if (f.retry) {
      const delay = 500 + Math.random() * 1500;
      setTimeout(() => { if (this.#welcome && sub.rid === f.rid && this.#subs.has(sub.id)) this.#begin(sub); }, delay);
    } else {
      this.#subs.delete(sub.id);
    }
    call(sub.handlers.error ?? this.#options.onError, f);
  }
}

// A handler that throws must not stop what follows.
function call(handler, ...args) {
  try { handler?.(...args); } catch (e) { console.error("haltline: a handler failed", e); }
}

function defaultUrl() {
  const at = globalThis.location;
  return at ? `${at.protocol === "https:" ? "wss" : "ws"}://${at.host}/v1/ws` : "ws://127.0.0.1:8001/v1/ws";
}
