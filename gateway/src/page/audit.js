// Audit: how the control flags changed, and what is on record about access.

import { address, get } from "./api.js";
import { h, show } from "./dom.js";
import { calm, moment, problem, table } from "./parts.js";
import { gap, heard, socket } from "./state.js";
import { cut, tone, words } from "./text.js";

const LAST = 200;

export function audit({ box, query, listen, until }) {
  const before = query.get("before") ?? "";
  let page = null, error = "", denied = "", closed = false, sub = null;
  let changes = [];

  async function read() {
    if (!heard() || denied) return;
    const answer = await get(address(["audit"], { before, limit: 100 }));
    if (closed) return;
    if (answer.ok) page = answer.body;
    else if (answer.status === 404) denied = "This gateway keeps no record of access.";
    else if (answer.status === 403) denied = "The record of access takes the role admin.";
    else error = `The record of access could not be read: ${answer.error}`;
    draw();
  }

  function follow() {
    sub?.close();
    changes = [];
    sub = socket()?.subscribe({ filter: { type: ["emergency_*"] }, from: { last: LAST } }, {
      event(e) { changes.push(e); if (changes.length > LAST) changes.shift(); soon(); },
      gap() { gap(); },
      error(e) { error = e.msg; draw(); },
    });
  }

  const change = (e) => h("tr", { key: e.id },
    h("td", null, moment(e.timestamp)), h("td", null, e.scope ?? "global"),
    h("td", null, h("span", { class: `state ${tone(e.previous_state)}` }, e.previous_state), " → ", h("span", { class: `state ${tone(e.new_state)}` }, e.new_state)),
    h("td", null, e.by ?? ""), h("td", { class: "wrap" }, cut(e.reason ?? "", 300)));

  const entry = (e) => h("tr", { key: e.seq },
    h("td", { class: "num" }, e.seq), h("td", null, moment(e.at)), h("td", null, words(e.action)), h("td", { class: e.outcome === "done" ? "" : "bad" }, `${e.outcome} ${e.status ?? ""}`, e.more ? `, and ${e.more} like it` : ""),
    h("td", null, e.by || "nobody", e.verified ? "" : " (not verified)", e.role ? `, ${e.role}` : ""), h("td", { class: "wide" }, e.address), h("td", { class: "wrap" }, e.target), h("td", { class: "wrap" }, cut(e.reason ?? "", 300)),
    h("td", null, e.before || e.after ? h("details", { ontoggle: (t) => { t.currentTarget.querySelector("pre").textContent = t.currentTarget.open ? cut(JSON.stringify({ before: e.before, after: e.after }, null, 1), 8000) : ""; } }, h("summary", null, "Before, after"), h("pre", { "data-keep": true })) : null));

  function draw() {
    show(box,
      h("h1", null, "Audit"), problem(error),
      h("section", { key: "flags" }, h("h2", null, "Changes of control flags"),
        table("Changes of control flags", ["Time", "Scope", "Change", "By", "Reason"], [...changes].reverse().map(change), { empty: "None among the events that the log has." })),
      h("section", { key: "access" }, h("h2", null, "Access: changes that were asked for, and refusals"),
        denied ? h("p", { class: "muted" }, denied) : [
          table("Access", [["#", "num"], "Time", "What", "Outcome", "Who", ["From", "wide"], "On", "Why", h("span", { class: "hidden" }, "More")], (page?.entries ?? []).map(entry), { empty: page ? "Nothing." : "Not read yet." }),
          h("div", { class: "row pager" }, before ? h("a", { class: "button", href: "#/audit" }, "Newest") : null, page?.next ? h("a", { class: "button", href: `#/audit?before=${page.next}` }, "Older") : null),
        ]));
  }

  const soon = calm(() => { draw(); if (!before) read(); }, 1000);
  listen("fresh", () => { read(); follow(); });
  listen("link", draw);
  until(() => { closed = true; soon.stop(); sub?.close(); });
  draw();
  read();
  follow();
}
