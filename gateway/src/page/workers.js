// Workers: who is there, how full, whether each has seen the flags and holds its lease.

import { get } from "./api.js";
import { h, show } from "./dom.js";
import { bar, moment, problem, table } from "./parts.js";
import { flags, heard, now } from "./state.js";
import { count, duration, running, tone } from "./text.js";

const EVERY = 2000;

export function workers({ box, listen, until }) {
  let list = null, error = "", closed = false, at = null;

  async function read() {
    if (!heard()) return;
    const answer = await get("/v1/workers");
    if (closed) return;
    error = answer.ok ? "" : `The workers could not be read: ${answer.error}`;
    if (answer.ok) { list = answer.body.workers; at = now(); }
    draw();
  }

  const slotsOf = (w) => Object.values(w.slots).reduce((a, b) => a + b, 0);
  const kinds = (w) => Object.entries(w.slots).map(([kind, n]) => `${kind} ${n}`).join(", ");

  function draw() {
    // All flags are keys of one bucket, so one number says what has been seen.
    const newest = Math.max(0, ...[...flags.values()].map((f) => f.rev ?? 0));
    const row = (w) => {
      const slots = slotsOf(w);
      const behind = w.control_revision < newest;
      const age = (text) => h("span", { class: heard() ? "" : "frozen" }, running(now() - Date.parse(text)));
      const lease = w.lease_age_ms === undefined ? "" : duration(w.lease_age_ms + (now() - at));
      return h("tr", { key: w.worker_id, "data-worker": w.worker_id },
        h("td", null, w.worker_id, w.draining ? h("span", { class: "pill warn" }, "draining") : null),
        h("td", null, h("span", { class: `state ${tone(w.gate)}` }, w.gate)),
        h("td", { class: "num" }, `${count(w.in_flight)} of ${count(slots)}`), h("td", { class: "meter-cell" }, bar(slots ? (w.in_flight / slots) * 100 : 0, w.in_flight >= slots ? "warn" : "good")),
        h("td", { class: `num ${behind ? "bad" : ""}` }, count(w.control_revision), behind ? ` behind ${newest}` : ""),
        h("td", { class: "num" }, age(w.seen_at)), h("td", { class: "num" }, lease),
        h("td", { class: "num" }, w.open_effects === undefined ? "" : count(w.open_effects)),
        h("td", { class: "num" }, count(w.tasks_done)), h("td", null, moment(w.started_at)),
        h("td", { class: "wide" }, `${w.host} ${w.pid}`), h("td", { class: "wide" }, w.version), h("td", { class: "clip wide", title: kinds(w) }, kinds(w)));
    };
    const total = (f) => count((list ?? []).reduce((n, w) => n + f(w), 0));
    show(box,
      h("h1", null, "Workers"), problem(error),
      h("p", { class: "muted" }, list ? `${count(list.length)} that showed a sign of life within ten seconds; ${total((w) => w.in_flight)} tasks in flight, ${total(slotsOf)} slots.` : ""),
      table("Workers", ["Worker", "Gate", ["In flight", "num"], h("span", { class: "hidden" }, "Share"), ["Flag seen", "num"], ["Sign of life", "num"], ["Lease", "num"], ["Open effects", "num"], ["Tasks done", "num"], "Started", ["Host and process", "wide"], ["Build", "wide"], ["Slots by node type", "wide"]], (list ?? []).map(row), { empty: list ? "No worker is alive: nothing can run." : "Not read yet." }));
  }

  const timer = setInterval(read, EVERY);
  listen("fresh", read);
  for (const kind of ["tick", "link", "flags"]) listen(kind, draw);
  until(() => { closed = true; clearInterval(timer); });
  draw();
  read();
}
