// Pieces that several views use.

import { address } from "./api.js";
import { h, s } from "./dom.js";
import { heard, now } from "./state.js";
import { cut, duration, ended, running, sign, time, tone, words } from "./text.js";

/** A state: sign, colour and word, so that no colour is needed to read it. */
export const state = (name) => h("span", { class: `state ${tone(name)}` }, h("span", { class: "sign", "aria-hidden": "true" }, sign(name)), words(name));

/** The address of a view. */
export function link(view, query = {}) {
  const tail = address([], query).slice("/v1/".length);
  return `#/${view}${tail}`;
}

/** A link to an execution. */
export const execution = (id) => h("a", { class: "id", href: `#/execution/${encodeURIComponent(id)}` }, id);
/** A link to a workflow. */
export const workflow = (id) => h("a", { href: `#/workflow/${encodeURIComponent(id)}` }, id);

/** How long an execution took, or has taken: stands still while the gateway is not heard. */
export function took(e) {
  if (ended(e.status)) return duration(e.duration_ms);
  return h("span", { class: heard() ? "" : "frozen" }, running(now() - Date.parse(e.started_at)));
}

/** A time with the whole of it as its title. */
export const moment = (text, millis) => (text ? h("time", { datetime: text, title: text }, time(text, now(), millis)) : "");

/** A table; `head` are texts or `[text, class]`, `rows` are lists of `h("td")`. */
export function table(label, head, rows, { empty = "Nothing.", id = null } = {}) {
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label, id },
    h("table", null,
      h("thead", null, h("tr", null, head.map((c) => (Array.isArray(c) ? h("th", { class: c[1], scope: "col" }, c[0]) : h("th", { scope: "col" }, c))))),
      h("tbody", null, rows.length ? rows : h("tr", { key: "none" }, h("td", { colspan: head.length, class: "muted" }, empty)))));
}

/** Rows of executions, as overview and list show them. */
export const EXECUTION_HEAD = ["Execution", "Status", ["Nodes", "num"], "Started", ["Took", "num"], "Workflow", ["Bot", "wide"], ["Strategy", "wide"], "What went wrong"];
export function executionRow(e) {
  const wrong = e.error ?? e.reason ?? "";
  return h("tr", { key: e.execution_id, "data-id": e.execution_id },
    h("td", null, execution(e.execution_id)),
    h("td", null, state(e.status)),
    h("td", { class: "num" }, `${e.nodes_completed}/${e.node_count}`),
    h("td", null, moment(e.started_at)),
    h("td", { class: "num" }, took(e)),
    h("td", null, workflow(e.workflow_id)),
    h("td", { class: "wide" }, e.bot_id),
    h("td", { class: "wide" }, e.strategy_id),
    h("td", { class: "clip", title: cut(wrong, 500) }, e.failed_node ? `${e.failed_node}: ` : "", cut(wrong, 160)));
}

/** A bar from 0 to 100 percent. */
export const bar = (percent, kind) => s("svg", { class: `meter ${kind}`, viewBox: "0 0 100 6", preserveAspectRatio: "none", "aria-hidden": "true" },
  s("rect", { class: "rest", width: 100, height: 6 }), s("rect", { class: "part", width: Math.max(0, Math.min(100, percent)), height: 6 }));

/** What could not be read; nothing if `error` is empty. */
export const problem = (error) => (error ? h("p", { class: "note bad", role: "status" }, error) : null);

/** A button that copies text, and says whether it did. */
export const copy = (text, label = "Copy") => h("button", {
  type: "button", class: "small",
  onclick: async (e) => {
    const button = e.currentTarget;
    let told = "Copied";
    try { await navigator.clipboard.writeText(text()); } catch { told = "Cannot copy here"; }
    button.textContent = told;
    setTimeout(() => { if (button.isConnected) button.textContent = label; }, 1500);
  },
}, label);

/** Calls `f` at most once per `ms`, and once more after the last call. */
export function calm(f, ms) {
  let timer = null, again = false;
  const run = () => {
    timer = setTimeout(() => { timer = null; if (again) { again = false; run(); } }, ms);
    f();
  };
  const call = () => { if (timer) again = true; else run(); };
  call.stop = () => { clearTimeout(timer); timer = null; again = false; };
  return call;
}
