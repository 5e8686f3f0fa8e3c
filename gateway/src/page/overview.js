// Overview: does it run, does anything fail, does it keep up, who works.

import { address, get } from "./api.js";
import { h, show } from "./dom.js";
import { EXECUTION_HEAD, calm, executionRow, link, problem, table } from "./parts.js";
import { health, heard, now } from "./state.js";
import { count } from "./text.js";

const EVERY = 5000;
const ROWS = 12;
const RECENT = 3600e3; // failures of the last hour
const BAD = ["failed", "timed_out", "halted", "completed_with_errors"];

export function overview({ box, listen, until }) {
  let data = { counts: null, running: null, failures: null, workers: null, error: "" };
  let closed = false;

  async function read() {
    if (!heard()) return;
    const since = new Date(now() - RECENT).toISOString();
    const [counts, running, failures, workers] = await Promise.all([
      get("/v1/executions/counts"),
      get(address(["executions"], { status: ["running", "waiting", "unknown"], limit: ROWS })),
      get(address(["executions"], { status: BAD, since, limit: ROWS })),
      get("/v1/workers"),
    ]);
    if (closed) return;
    const wrong = [counts, running, failures, workers].find((a) => !a.ok && a.status !== 403);
    data = { counts: counts.body?.statuses, running: running.body?.executions, failures: failures.body?.executions, workers: workers.body?.workers, error: wrong?.error ?? "" };
    draw();
  }

  const tile = (name, value, kind, href, more) => h("div", { class: `tile ${kind}`, key: name },
    h("span", { class: "label" }, name), href ? h("a", { class: "big", href }, value) : h("span", { class: "big" }, value), h("span", { class: "muted" }, more));

  function draw() {
    const c = data.counts ?? {};
    const b = health.body;
    const stopped = (c.failed ?? 0) + (c.timed_out ?? 0);
    const w = data.workers;
    const slots = w?.reduce((n, x) => n + Object.values(x.slots).reduce((a, s) => a + s, 0), 0);
    const busy = w?.reduce((n, x) => n + x.in_flight, 0);
    const known = heard() && b;
    const lag = known ? b.tail?.lag_messages : null;
    show(box,
      h("h1", null, "Overview"),
      problem(data.error),
      h("div", { class: "tiles" },
        tile("Running", count(data.counts ? c.running : null), "", link("executions", { status: "running" }), `${count(c.waiting ?? (data.counts ? 0 : null))} waiting`),
        tile("Outcome unknown", count(data.counts ? c.unknown : null), c.unknown ? "bad" : "", link("executions", { status: "unknown" }), "wait for an operator"),
        tile("Failed", count(data.counts ? stopped : null), stopped ? "warn" : "", link("executions", { status: ["failed", "timed_out"] }), `${data.failures ? `${data.failures.length}${data.failures.length === ROWS ? "+" : ""} not clean in the last hour` : ""}`),
        tile("Completed", count(data.counts ? c.completed : null), "", link("executions", { status: "completed" }), `${count(data.counts ? c.completed_with_errors : null)} with errors`),
        tile("Lag", lag === null || lag === undefined ? "?" : count(lag), lag > 1000 ? "bad" : "", null, known ? `messages; heard ${count(b.tail.heard_ms_ago)} ms ago` : "not known"),
        tile("Workers", count(w ? w.length : null), w && !w.length ? "bad" : "", "#/workers", w ? `${count(busy)} tasks in flight, ${count(slots)} slots` : "")),
      h("section", { "aria-label": "Parts" }, h("h2", null, "Parts"), parts(known ? b : null)),
      h("section", null, h("h2", null, "Running now"), table("Running now", EXECUTION_HEAD, (data.running ?? []).map(executionRow), { empty: data.running ? "Nothing runs." : "Not read yet." })),
      h("section", null, h("h2", null, "Not clean in the last hour"), table("Not clean in the last hour", EXECUTION_HEAD, (data.failures ?? []).map(executionRow), { empty: data.failures ? "Nothing." : "Not read yet." })));
  }

  function parts(b) {
    const part = (name, fine, says) => h("li", { key: name }, h("span", { class: `pill ${fine === null ? "warn" : fine ? "good" : "bad"}` }, fine === null ? "unknown" : fine ? "ok" : "not ok"), h("span", null, name), h("span", { class: "muted" }, says));
    const is = (f) => (b ? f(b) : null);
    return h("ul", { class: "parts-list" },
      part("nats-server", is((x) => !!x.nats?.connected), "connected"),
      part("JetStream", is((x) => !!x.jetstream?.ok), "answers about the log"),
      part("coordinator", is((x) => !!x.coordinator?.answering), "every shard has an owner"),
      part("workers", is((x) => (x.workers?.count === null ? null : x.workers?.count > 0)), b ? `${count(b.workers?.count)} alive` : ""),
      part("tail of the log", is((x) => !!x.tail?.live), b ? `at #${count(b.tail?.head)}` : ""),
      part("list of executions", is((x) => !!x.executions?.ready), b ? `${count(b.executions?.listed)} listed` : ""));
  }

  const soon = calm(read, 1000);
  listen("event", soon);
  listen("fresh", soon);
  for (const kind of ["tick", "link", "health"]) listen(kind, draw);
  const timer = setInterval(read, EVERY);
  until(() => { closed = true; clearInterval(timer); soon.stop(); });
  draw();
  read();
}
