// Executions: which of them, by filters that the gateway applies and the address carries.

import { address, ask, get, may } from "./api.js";
import { h, show } from "./dom.js";
import { EXECUTION_HEAD, calm, executionRow, link, problem, table } from "./parts.js";
import { heard } from "./state.js";
import { count, words } from "./text.js";

const STATUSES = ["running", "waiting", "unknown", "completed", "completed_with_errors", "failed", "timed_out", "halted", "cancelled"];
const OPEN = ["running", "waiting", "unknown"];
const TEXTS = [["workflow_id", "Workflow"], ["bot_id", "Bot"], ["strategy_id", "Strategy"], ["id", "Id begins with"]];
const TIMES = [["since", "Started from (UTC)"], ["until", "to (UTC)"]];
const SIZE = 50;

export function executions({ box, query, listen, until }) {
  const asked = Object.fromEntries([...TEXTS, ...TIMES].map(([name]) => [name, query.get(name) ?? ""]));
  const status = query.getAll("status").flatMap((s) => s.split(",")).filter((s) => STATUSES.includes(s));
  const sort = query.get("sort") === "started_at" ? "started_at" : "";
  const cursor = query.get("cursor") ?? "";
  let page = null, error = "", cancel = null, closed = false;

  async function read() {
    if (!heard()) return;
    const answer = await get(address(["executions"], { ...asked, status, sort, cursor, limit: SIZE }));
    if (closed) return;
    error = answer.ok ? "" : `The list could not be read: ${answer.error}`;
    if (answer.ok) page = answer.body;
    else soon(); // nothing else may come that makes it read again
    draw();
  }

  function go(e) {
    e.preventDefault();
    const f = new FormData(e.target);
    const utc = (text) => (text ? `${text.length === 16 ? `${text}:00` : text}Z` : "");
    const next = { status: f.getAll("status"), sort: f.get("sort") };
    for (const [name] of TEXTS) next[name] = String(f.get(name)).trim();
    for (const [name] of TIMES) next[name] = utc(String(f.get(name)));
    location.hash = link("executions", next);
  }

  function filters() {
    return h("form", { class: "filters", onsubmit: go, role: "search", "aria-label": "Filters" },
      h("fieldset", null, h("legend", null, "Status"), STATUSES.map((s) => h("label", { class: "check" }, h("input", { type: "checkbox", name: "status", value: s, checked: status.includes(s) }), words(s)))),
      h("div", { class: "row" },
        TEXTS.map(([name, label]) => h("label", null, h("span", null, label), h("input", { name, value: asked[name], autocomplete: "off", spellcheck: "false" }))),
        TIMES.map(([name, label]) => h("label", null, h("span", null, label), h("input", { name, type: "datetime-local", step: 1, value: asked[name].replace(/(\.\d+)?Z$/, "") }))),
        h("label", null, h("span", null, "Order"), h("select", { name: "sort" }, h("option", { value: "" }, "newest first"), h("option", { value: "started_at", selected: !!sort }, "oldest first"))),
        h("div", { class: "row" }, h("button", { id: "apply" }, "Apply"), h("a", { class: "button", href: "#/executions" }, "Clear"))));
  }

  function draw() {
    const rows = page?.executions ?? [];
    const here = Object.fromEntries(query);
    const steer = h("div", { class: "row pager" },
      h("span", { class: "muted" }, page ? `${count(rows.length)} shown${cursor ? ", a later page" : ""}` : ""),
      cursor ? h("a", { class: "button", href: link("executions", { ...asked, status, sort }) }, "First page") : null,
      cursor ? h("button", { type: "button", onclick: () => history.back() }, "Back") : null,
      page?.next ? h("a", { class: "button", id: "next", href: link("executions", { ...asked, status, sort, cursor: page.next }) }, "Next page") : null);
    show(box,
      h("div", { class: "row title" }, h("h1", null, "Executions"), h("button", { type: "button", id: "cancel-open", onclick: preview, disabled: !may("operator") || !!asked.id }, Object.keys(here).length ? "Cancel what matches…" : "Cancel what runs…")),
      asked.id ? h("p", { class: "muted" }, "Bulk cancelling does not go by the beginning of ids.") : null,
      cancel ? cancelForm() : null,
      filters(), problem(error),
      table("Executions", EXECUTION_HEAD, rows.map(executionRow), { empty: page ? "None matches." : "Not read yet." , id: "runs" }),
      steer);
  }

  /** What a bulk cancel asks for. Only what has not ended can be cancelled. */
  function wanted() {
    const open = status.filter((s) => OPEN.includes(s));
    const list = (v) => (v ? [v] : []);
    const w = { workflow_id: list(asked.workflow_id), bot_id: list(asked.bot_id), strategy_id: list(asked.strategy_id), status: open, limit: 500 };
    for (const [name] of TIMES) if (asked[name]) w[name] = asked[name];
    if (![asked.workflow_id, asked.bot_id, asked.strategy_id, asked.since, asked.until, ...open].some(Boolean)) w.all = true;
    return w;
  }

  async function preview() {
    if (status.length && !status.some((s) => OPEN.includes(s))) {
      cancel = { error: "Everything that these filters show has ended." };
      return draw();
    }
    cancel = { busy: true };
    draw();
    const answer = await ask("POST", "/v1/executions/cancel", { body: { ...wanted(), dry_run: true, reason: "preview" } });
    cancel = answer.ok ? { ids: answer.body.cancelled, more: answer.body.more } : { error: answer.error };
    draw();
  }

  async function send(reason) {
    const before = cancel;
    cancel = { ...before, busy: true };
    draw();
    const answer = await ask("POST", "/v1/executions/cancel", { body: { ...wanted(), reason, by: "dashboard, unverified" }, timeout: 60000 });
    cancel = answer.ok
      ? { done: `Stored: ${count(answer.body.cancelled.length)} asked to end${answer.body.failed.length ? `, ${answer.body.failed.length} could not be asked (${answer.body.failed[0].error})` : ""}.${answer.body.more ? " Others match still: repeat." : ""} Each ends when its running nodes have.` }
      : { ...before, busy: false, error: `NOT known to be done: ${answer.error}` };
    draw();
    read();
  }

  function cancelForm() {
    const shut = h("button", { type: "button", onclick: () => { cancel = null; draw(); } }, cancel.done ? "Close" : "Do nothing");
    if (cancel.done || (cancel.error && !cancel.ids)) return h("div", { class: "card", key: "cancel", id: "cancel" }, h("p", { class: cancel.done ? "" : "bad", role: "status" }, cancel.done ?? cancel.error), shut);
    if (!cancel.ids) return h("div", { class: "card", key: "cancel", id: "cancel" }, h("p", { role: "status" }, "Looking what matches…"));
    return h("form", { class: "card", key: "cancel", id: "cancel", onsubmit: (e) => { e.preventDefault(); send(new FormData(e.target).get("reason")); } },
      h("h2", null, `Cancel ${count(cancel.ids.length)}${cancel.more ? " (the first; more match)" : ""} of the whole list, not only of this page`),
      h("p", { class: "muted" }, cancel.ids.slice(0, 8).join(", "), cancel.ids.length > 8 ? ` and ${count(cancel.ids.length - 8)} more` : ""),
      problem(cancel.error),
      h("label", null, h("span", null, "Reason"), h("input", { name: "reason", required: true, maxlength: 500, autocomplete: "off" })),
      h("div", { class: "row end" }, shut, h("button", { id: "cancel-send", class: "danger", disabled: cancel.busy || !cancel.ids.length }, `Cancel ${count(cancel.ids.length)}`)));
  }

  // What is shown is what the gateway lists: it is read again when something changed.
  const soon = calm(read, 1000);
  listen("event", () => { if (!cursor) soon(); });
  listen("fresh", soon);
  for (const kind of ["tick", "link"]) listen(kind, draw);
  until(() => { closed = true; soon.stop(); });
  draw();
  read();
}
