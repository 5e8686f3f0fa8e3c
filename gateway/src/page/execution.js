// One execution: its definition as a graph with where each node stands, its timeline, events, payloads.

import { address, ask, get, may } from "./api.js";
import { h, show } from "./dom.js";
import { Run, parents, spans, standing } from "./fold.js";
import { Graph } from "./graph.js";
import { history } from "./history.js";
import { nodePanel } from "./node.js";
import { calm, copy, moment, problem, state, took, workflow } from "./parts.js";
import { gap, heard, now, place, socket } from "./state.js";
import { timeline } from "./timeline.js";
import { count, duration, ended } from "./text.js";

const PAGES = 10; // of 1,000 events each; more are not needed to see where nodes stand, and would fill the memory

export function execution({ box, args, query, listen, until }) {
  const id = args[0] ?? "";
  let record = null, definition = null, graph = null, run = new Run(), error = "", more = false, closed = false;
  let sub = null, note = "", sending = false;
  let chosen = query.get("node");
  const panel = nodePanel(id, () => draw());

  async function read() {
    if (!heard() || closed) return;
    sub?.close();
    sub = null;
    const answer = await get(address(["executions", id]));
    if (closed) return;
    if (!answer.ok) { error = answer.error; return draw(); }
    record = answer.body;
    error = "";
    if (!definition) {
      const d = await get(address(["workflows", record.workflow_id], { version: record.workflow_version }));
      if (closed) return;
      if (d.ok) { definition = d.body; graph = new Graph(definition, () => draw()); } else error = `The definition could not be read: ${d.error}`;
    }
    await readEvents();
  }

  async function readEvents() {
    const next = new Run();
    let after = null;
    more = false;
    for (let page = 0; ; page++) {
      const answer = await get(address(["executions", id, "events"], { after: after ?? "" }));
      if (closed) return;
      if (!answer.ok) { error = `The events could not be read: ${answer.error}`; break; }
      next.add(answer.body.events);
      if (answer.body.next === null) break;
      after = answer.body.next;
      if (page + 1 === PAGES) { more = true; break; }
    }
    run = next;
    draw();
    follow();
  }

  // From behind the last event that was read: what is told twice is dropped by its id.
  function follow() {
    if (closed || run.ended || more || !socket()) return;
    const last = run.events.at(-1)?.seq;
    sub = socket().subscribe({ filter: { execution: [id] }, from: last ? { seq: last } : { last: 1000 } }, {
      event(e, { cursor }) { place(cursor); run.add([{ ...e, seq: Number(cursor.split(".")[1]) }]); if (e.type.startsWith("execution_")) finish(); soon(); },
      gap() { gap(); },
      error(e) { error = `Live events were refused: ${e.msg}`; draw(); },
    });
  }

  // The record is written a moment after the last event.
  async function finish() {
    for (let i = 0; i < 20 && !closed && heard(); i++) {
      const answer = await get(address(["executions", id]));
      if (answer.ok) { record = answer.body; draw(); if (ended(record.status)) return; }
      await new Promise((done) => setTimeout(done, 500));
    }
  }

  async function cancelIt(e) {
    e.preventDefault();
    sending = true;
    const answer = await ask("POST", address(["executions", id, "cancel"]), { body: { reason: new FormData(e.target).get("reason"), by: "dashboard, unverified" } });
    sending = false;
    note = answer.ok ? "Stored: it ends when its running nodes have." : `NOT known to be stored: ${answer.error}`;
    draw();
  }

  function pick(node) {
    chosen = chosen === node ? null : node;
    // In the address without another view beginning.
    window.history.replaceState(null, "", `#/execution/${encodeURIComponent(id)}${chosen ? `?node=${encodeURIComponent(chosen)}` : ""}`);
    panel.pick(chosen);
    draw();
    if (chosen) box.querySelector("#node")?.scrollIntoView({ block: "nearest" });
  }

  function facts() {
    const status = run.ended ? run.status : record.status;
    const live = { ...record, status, duration_ms: record.duration_ms ?? run.ended?.duration_ms };
    const fact = (name, ...value) => h("div", { key: name }, h("dt", null, name), h("dd", null, value));
    const done = [...run.nodes.values()].filter((n) => n.status === "completed").length;
    return h("dl", { class: "facts" },
      fact("Status", state(status)), fact("Took", took(live)), fact("Nodes", `${done} of ${record.node_count} completed`),
      fact("Workflow", workflow(record.workflow_id), ` version ${record.workflow_version}`),
      fact("Bot", record.bot_id || "none"), fact("Strategy", record.strategy_id || "none"),
      fact("Started", moment(record.started_at, true)), record.finished_at ? fact("Ended", moment(record.finished_at, true)) : null);
  }

  function wrong() {
    const list = [record.failed_node && `${record.failed_node}: ${record.error ?? ""}`, !record.failed_node && record.error, record.reason, ...(record.errors ?? []).map((f) => `${f.node_id}: ${f.error} (${f.on_error})`)].filter(Boolean);
    return list.length ? h("div", { class: "card bad-card", key: "wrong" }, list.map((text) => h("p", null, text))) : null;
  }

  function draw() {
    if (closed) return;
    const title = h("div", { class: "row title" }, h("h1", { class: "id" }, id), copy(() => id, "Copy id"));
    if (!record) return show(box, title, error ? problem(error) : h("p", { class: "muted" }, "Reading…"));
    const over = run.ended ? true : ended(record.status);
    const started = run.started ?? record.started_at;
    const times = definition ? spans(definition, run, started, now()) : new Map();
    const status = (node) => standing(run, node, over);
    const detail = (node) => {
      const t = times.get(node);
      const attempts = run.nodes.get(node)?.attempts.length;
      if (!t || t.run === null) return "";
      return [duration(t.run), t.wait === null ? "" : `wait ${duration(t.wait)}`, attempts > 1 ? `×${attempts}` : ""].filter(Boolean).join(" · ");
    };
    show(box, title, problem(error), facts(), wrong(),
      over ? null : h("form", { class: "row", key: "stop", onsubmit: cancelIt },
        h("label", null, h("span", null, "Reason to cancel it"), h("input", { name: "reason", required: true, maxlength: 500, autocomplete: "off" })),
        h("button", { id: "cancel", disabled: !may("operator") || sending }, "Cancel this execution")),
      note ? h("p", { role: "status", key: "note" }, note) : null,
      more ? h("p", { class: "note warn", key: "more" }, `Only the first ${count(run.events.length)} events were read: the picture is of that moment, and does not follow.`) : null,
      definition ? h("section", { key: "graph" }, h("h2", null, "Graph"), graph.draw({ status, detail, chosen, pick, label: `Graph of ${record.workflow_id}, version ${record.workflow_version}` })) : null,
      chosen && definition ? panel.draw({ node: definition.nodes.find((n) => n.id === chosen), n: run.nodes.get(chosen), t: times.get(chosen), status: status(chosen), parents, record, close: () => pick(chosen) }) : panel.whole(record),
      definition ? timeline({ definition, run, times, status, started: Date.parse(started), end: run.ended ? Date.parse(run.ended.timestamp) : now(), pick, chosen, again: draw }) : null,
      history({ run, chosen, again: draw }));
  }

  const soon = calm(draw, 100);
  listen("fresh", read);
  for (const kind of ["tick", "link"]) listen(kind, draw);
  until(() => { closed = true; sub?.close(); soon.stop(); });
  panel.pick(chosen);
  draw();
  read();
}
