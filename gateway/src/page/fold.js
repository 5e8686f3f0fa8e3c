// Where the nodes of an execution stand, folded from its events in the order of the log. Pure.

const NODE = {
  node_started: "running", node_retrying: "retrying", node_completed: "completed", node_failed: "failed",
  node_refused: "refused", node_skipped: "skipped", node_unknown: "unknown", node_stale: "retrying",
};
const SETTLED = new Set(["completed", "failed", "refused", "skipped"]);

/** Events of one execution, and what follows from them. */
export class Run {
  /** Events in their order, each with `seq` and `at` (its place among those of its message). */
  events = [];
  nodes = new Map();
  status = "running";
  ended = null;
  #ids = new Set();

  /** Takes events in; `seq` is their message's place. Repeats are dropped, late ones are put where they belong. */
  add(events) {
    let late = false;
    for (const e of events) {
      if (this.#ids.has(e.id)) continue;
      this.#ids.add(e.id);
      const last = this.events.at(-1);
      if (last && e.seq < last.seq) late = true;
      this.events.push(e);
      if (!late) this.#apply(e);
    }
    if (late) {
      // The sort is stable: events of a message keep their order.
      this.events.sort((a, b) => a.seq - b.seq);
      this.nodes.clear();
      this.status = "running";
      this.ended = null;
      this.events.forEach((e) => this.#apply(e));
    }
  }

  #apply(e) {
    if (e.type === "execution_started") { this.started = e.timestamp; return; }
    if (e.type.startsWith("execution_")) {
      this.status = e.status ?? e.type.slice("execution_".length);
      this.ended = e;
      return;
    }
    const status = NODE[e.type];
    if (!status || !e.node_id) return;
    const n = this.nodes.get(e.node_id) ?? { id: e.node_id, status, token: 0, attempts: [], started: null, finished: null };
    this.nodes.set(e.node_id, n);
    // What carries a lower token than one that took the node over counts no more.
    if ((e.token ?? n.token) < n.token) return;
    n.token = e.token ?? n.token;
    // A start that is told late does not undo a result; one of a later attempt means that it is read again.
    if (SETTLED.has(n.status) && n.finished) {
      if (status !== "running" || (e.attempt ?? 1) <= (n.attempts.at(-1)?.number ?? 1)) return;
      n.finished = null;
    }
    n.status = status;
    n.worker = e.worker_id ?? n.worker;
    n.reason = status === "completed" ? null : (e.reason ?? n.reason);
    n.error = status === "completed" ? null : (e.error ?? n.error);
    n.error_type = status === "completed" ? null : (e.error_type ?? n.error_type);
    this.#attempt(n, e, status);
    if (status === "running") n.started ??= e.timestamp;
    else if (SETTLED.has(status)) n.finished = e.timestamp;
    n.duration = e.duration_ms ?? n.duration;
  }

  #attempt(n, e, status) {
    if (status === "skipped" || (status === "refused" && !e.attempt)) return;
    const number = e.attempt ?? (n.attempts.at(-1)?.number ?? 1);
    let a = n.attempts.find((x) => x.number === number);
    if (!a) n.attempts.push((a = { number, started: e.timestamp, ended: null }));
    Object.assign(a, { status: status === "retrying" ? "failed" : status, worker: e.worker_id ?? a.worker, retryIn: e.retry_in_ms });
    if (status === "running") a.started = e.timestamp;
    else Object.assign(a, { ended: e.timestamp, ms: e.duration_ms, error: e.error, error_type: e.error_type });
  }
}

/** What a node waits for: nodes that its inputs name, and `depends_on`. */
export function parents(node) {
  const from = Object.values(node.inputs ?? {}).map((i) => i?.node).filter(Boolean);
  return [...new Set([...from, ...(node.depends_on ?? [])])];
}

/**
 * When each node that has begun could have, and for how long it waited: from the end of the last of what it
 * needs (the start of the execution, if nothing) to its first attempt. `Map<id, { ready, wait, run }>` in
 * milliseconds; `wait` is null where it is not known.
 */
export function spans(definition, run, started, now) {
  const at = (text) => (text ? Date.parse(text) : null);
  const all = new Map();
  for (const node of definition.nodes) {
    const n = run.nodes.get(node.id);
    const ends = parents(node).map((p) => at(run.nodes.get(p)?.finished));
    const ready = ends.some((e) => e === null) ? null : Math.max(at(started) ?? 0, ...ends);
    const begun = at(n?.started);
    const over = run.ended ? at(run.ended.timestamp) : now;
    const finish = at(n?.finished) ?? (n && begun !== null ? over : null);
    const waits = begun ?? (n?.finished ? at(n.finished) : over);
    all.set(node.id, {
      ready, begun, finish,
      // What never began waited for nothing that would come.
      wait: !ready || (begun === null && run.ended) ? null : Math.max(0, waits - ready),
      // Of several attempts all of it, with what lies between them.
      run: begun === null || finish === null ? null : n.finished && n.attempts.length === 1 ? (n.duration ?? finish - begun) : Math.max(0, finish - begun),
    });
  }
  return all;
}

/** A node's status for people: nodes without an event wait, or never ran. */
export const standing = (run, id, over) => run.nodes.get(id)?.status ?? (over ? "not_run" : "pending");
