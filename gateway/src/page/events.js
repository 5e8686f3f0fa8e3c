// Live events, as they are in the log.

import { h, show } from "./dom.js";
import { calm, execution, link, moment, problem } from "./parts.js";
import { gap, heard, place, socket } from "./state.js";
import { count, cut, duration, words } from "./text.js";

const KEEP = 500; // events in the page
const FIELDS = [["workflow", "Workflow"], ["bot", "Bot"], ["strategy", "Strategy"], ["execution", "Execution"], ["type", "Type, as node_*"]];

export function events({ box, query, listen, until }) {
  const asked = Object.fromEntries(FIELDS.map(([name]) => [name, query.get(name) ?? ""]));
  const filter = Object.fromEntries(Object.entries(asked).filter(([, v]) => v).map(([name, v]) => [name, [v]]));
  let list = [], gaps = [], error = "", sub = null, paused = false, total = 0, live = false, frozen = null;

  function follow() {
    sub?.close();
    list = [];
    live = false;
    // Lossless: a view of the log must not leave events out without saying so.
    sub = socket()?.subscribe({ filter, from: { last: 100 } }, {
      event(e, { cursor }) {
        total++;
        place(cursor);
        list.push({ ...e, place: cursor.split(".")[1] });
        if (list.length > KEEP) list.splice(0, list.length - KEEP);
        soon();
      },
      live() { live = true; soon(); },
      gap(g) { gaps.push(g); gap(); },
      error(e) { error = e.msg; draw(); },
    });
  }

  function go(e) {
    e.preventDefault();
    const f = new FormData(e.target);
    location.hash = link("events", Object.fromEntries(FIELDS.map(([name]) => [name, String(f.get(name)).trim()])));
  }

  const says = (e) => [e.error_type, e.error, e.reason, e.new_state ? `${e.previous_state} → ${e.new_state}` : "", duration(e.duration_ms)].filter(Boolean).join("; ");
  const row = (e) => h("tr", { key: `${e.place} ${e.id}` },
    h("td", { class: "num" }, e.place), h("td", null, moment(e.timestamp, true)), h("td", null, words(e.type)), h("td", null, e.execution_id ? execution(e.execution_id) : ""),
    h("td", null, e.node_id ?? ""), h("td", { class: "wide" }, e.workflow_id ?? ""), h("td", { class: "wide" }, e.bot_id ?? ""), h("td", { class: "clip", title: cut(says(e), 500) }, cut(says(e), 160)),
    h("td", null, h("details", { ontoggle: (t) => { t.currentTarget.querySelector("pre").textContent = t.currentTarget.open ? cut(JSON.stringify(e, null, 1), 4000) : ""; } }, h("summary", null, "JSON"), h("pre", { "data-keep": true }))));

  function draw() {
    const shown = paused ? frozen : list;
    show(box,
      h("div", { class: "row title" }, h("h1", null, "Events"), h("span", { class: `pill ${live && heard() && !paused ? "good" : "warn"}` }, paused ? "held here" : live && heard() ? "live" : "not live"),
        h("button", { type: "button", id: "hold", "aria-pressed": String(paused), onclick: () => { paused = !paused; frozen = paused ? [...list] : null; draw(); } }, paused ? "Go on" : "Hold the picture"), h("span", { class: "muted" }, `${count(total)} since this view was opened; the last ${KEEP} are kept, the newest on top`)),
      problem(error),
      gaps.length ? h("p", { class: "note warn", key: "gaps" }, `${gaps.length} gap${gaps.length === 1 ? "" : "s"}: ${gaps.at(-1).reason}, ${gaps.at(-1).lost === null ? "how many is not known" : `${count(gaps.at(-1).lost)} messages`} missing; read anew.`) : null,
      h("form", { class: "row filters", role: "search", onsubmit: go, key: "filters" }, FIELDS.map(([name, label]) => h("label", null, h("span", null, label), h("input", { name, value: asked[name], autocomplete: "off", spellcheck: "false" }))), h("div", { class: "row" }, h("button", null, "Apply"), h("a", { class: "button", href: "#/events" }, "Clear"))),
      h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Events" }, h("table", { id: "log" },
        h("thead", null, h("tr", null, [["#", "num"], "Time", "Event", "Execution", "Node", ["Workflow", "wide"], ["Bot", "wide"], "Says", h("span", { class: "hidden" }, "All of it")].map((c) => h("th", { scope: "col", class: Array.isArray(c) ? c[1] : null }, Array.isArray(c) ? c[0] : c)))),
        h("tbody", null, shown.length ? [...shown].reverse().map(row) : h("tr", { key: "none" }, h("td", { colspan: 9, class: "muted" }, "None yet."))))));
  }

  const soon = calm(draw, 250);
  listen("fresh", () => { if (!live || gaps.length) follow(); });
  listen("link", draw);
  until(() => { sub?.close(); soon.stop(); });
  draw();
  follow();
}
