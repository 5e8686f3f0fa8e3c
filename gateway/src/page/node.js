// One node of an execution: attempts, what it waited for, what it gave. And payloads: never more than asked for.

import { address, ask, get, may } from "./api.js";
import { h } from "./dom.js";
import { copy, moment, problem, state } from "./parts.js";
import { bytes, duration } from "./text.js";

const FIRST = 64 * 1024; // what a person looks at
const MOST = 900 * 1024; // what the gateway gives at once
const SHOWN = 200 * 1024; // characters put into the page

/** The panel of what is chosen; `again` draws the view. */
export function nodePanel(id, again) {
  let payloads = new Map(); // part -> { busy, body, error }
  let note = "";

  async function load(part, node, max) {
    const mine = payloads;
    const key = `${part}/${node ?? ""}`;
    mine.set(key, { busy: true });
    again();
    const answer = await get(address(["executions", id, "payload"], { part, node, max_bytes: max }), { timeout: 30000 });
    mine.set(key, answer.ok ? { body: answer.body } : { error: answer.error });
    if (mine === payloads) again();
  }

  function payload(part, node, label) {
    const p = payloads.get(`${part}/${node ?? ""}`);
    if (!p) return h("button", { type: "button", key: `open-${part}`, "data-payload": part, onclick: () => load(part, node, FIRST) }, `Open ${label}`);
    if (p.busy) return h("p", { class: "muted", key: `busy-${part}` }, "Reading…");
    if (p.error) return h("div", { key: `failed-${part}` }, problem(`${label}: ${p.error}`));
    const b = p.body;
    const text = b.cut ? b.beginning : JSON.stringify(b.value, null, 2);
    const cut = b.cut || text.length > SHOWN;
    return h("div", { class: "payload", key: `payload-${part}`, "data-payload": part },
      h("div", { class: "row" }, h("strong", null, label), h("span", { class: cut ? "warn" : "muted" }, cut ? `${bytes(b.bytes)}, only the beginning is shown` : bytes(b.bytes)),
        copy(() => text, b.cut ? "Copy what is shown" : "Copy"),
        b.cut && text.length < MOST / 2 && b.bytes > FIRST ? h("button", { type: "button", class: "small", onclick: () => load(part, node, MOST) }, `Read up to ${bytes(MOST)}`) : null),
      h("pre", { tabindex: "0", role: "region", "aria-label": label }, text.slice(0, SHOWN)));
  }

  async function resolve(e, node) {
    e.preventDefault();
    const f = new FormData(e.target);
    const body = { resolution: f.get("resolution"), reason: f.get("reason"), by: "dashboard, unverified" };
    if (body.resolution === "done") {
      try { body.outputs = JSON.parse(f.get("outputs") || "{}"); } catch { note = "The outputs are no JSON."; return again(); }
    }
    const answer = await ask("POST", address(["executions", id, "nodes", node, "resolve"]), { body });
    note = answer.ok ? "Stored." : `NOT known to be stored: ${answer.error}`;
    again();
  }

  const resolveForm = (node) => h("form", { class: "card", key: "resolve", onsubmit: (e) => resolve(e, node) },
    h("h3", null, "Nobody knows whether its side effect happened"),
    h("p", { class: "muted" }, "Ask the venue by the idempotency key among the events first. The answer is final."),
    h("div", { class: "row" },
      h("label", null, h("span", null, "What became of it"), h("select", { name: "resolution" }, h("option", { value: "done" }, "it happened: done"), h("option", { value: "fail" }, "it did not: fail"), h("option", { value: "repeat" }, "it did not: repeat it"))),
      h("label", null, h("span", null, "Outputs (JSON), if done"), h("input", { name: "outputs", spellcheck: "false", autocomplete: "off" })),
      h("label", null, h("span", null, "How that was found out"), h("input", { name: "reason", required: true, maxlength: 500, autocomplete: "off" })),
      h("button", { disabled: !may("operator") }, "Store")));

  function attempts(n) {
    if (!n?.attempts.length) return null;
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Attempts" }, h("table", null,
      h("thead", null, h("tr", null, ["Attempt", "Result", "Began", "Took", "Worker", "Error"].map((t) => h("th", { scope: "col" }, t)))),
      h("tbody", null, n.attempts.map((a) => h("tr", { key: a.number },
        h("td", null, a.number), h("td", null, state(a.status)), h("td", null, moment(a.started, true)), h("td", null, duration(a.ms)), h("td", null, a.worker ?? ""),
        h("td", { class: "wrap" }, [a.error_type, a.error].filter(Boolean).join(": "), a.retryIn ? `; again in ${duration(a.retryIn)}` : ""))))));
  }

  const input = ([name, from]) => h("li", { key: name }, h("b", null, name), " ← ", from.node ? `${from.node}.${from.output}` : "input" in from ? `input ${from.input}` : JSON.stringify(from.value));

  return {
    pick() { payloads = new Map(); note = ""; },
    /** What belongs to no node. */
    whole: (record) => h("section", { class: "row", key: "whole" }, payload("input", null, "the input"), Object.keys(record.results ?? {}).length || record.results_omitted ? payload("results", null, "all results") : null),
    draw({ node, n, t, status, record, close }) {
      if (!node) return h("p", { class: "note warn", key: "node" }, "The definition has no such node.");
      return h("section", { class: "card", id: "node", key: `node-${node.id}`, "aria-label": `Node ${node.id}` },
        h("div", { class: "row title" }, h("h2", null, node.name || node.id), state(status), h("span", { class: "muted" }, `${node.id} · ${node.type}${node.category ? ` · ${node.category}` : ""}${n?.worker ? ` · ${n.worker}` : ""}`), h("button", { type: "button", class: "small", onclick: close }, "Close")),
        h("p", null, t?.wait === null || !t ? "Not ready yet." : `Waited ${duration(t.wait)} in the queue${t.run === null ? "." : `, ran ${duration(t.run)}.`}`, n?.reason ? ` ${n.reason}` : ""),
        attempts(n),
        status === "unknown" ? resolveForm(node.id) : null,
        note ? h("p", { role: "status" }, note) : null,
        h("div", { class: "columns" },
          h("div", null, h("h3", null, "Inputs"), Object.keys(node.inputs ?? {}).length ? h("ul", { class: "plain" }, Object.entries(node.inputs).map(input)) : h("p", { class: "muted" }, "None."), node.depends_on?.length ? h("p", { class: "muted" }, `After ${node.depends_on.join(", ")}.`) : null),
          h("div", null, h("h3", null, "Gave"), status === "completed" || record.results?.[node.id] ? payload("output", node.id, "the output") : h("p", { class: "muted" }, "Nothing."))));
    },
  };
}
