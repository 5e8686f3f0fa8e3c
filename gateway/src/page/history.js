// The events of an execution in the order of the log.

import { h } from "./dom.js";
import { moment } from "./parts.js";
import { count, cut, duration, words } from "./text.js";

const ROWS = 200;
const TEXT = 4000; // characters of one event; the payload inspector has all of it
let most = ROWS;

const says = (e) => [e.error_type, e.error, e.reason, e.retry_in_ms ? `again in ${duration(e.retry_in_ms)}` : "", e.key ? `key ${e.key}` : "", e.status && e.status !== "success" ? words(e.status) : ""].filter(Boolean).join("; ");

/** The section; of one node only, if one is chosen. */
export function history({ run, chosen, again }) {
  const events = chosen ? run.events.filter((e) => e.node_id === chosen) : run.events;
  return h("section", { key: "history" },
    h("h2", null, chosen ? `Events of ${chosen}` : "Events", h("span", { class: "muted" }, ` ${count(events.length)}, in the order of the log`)),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Events" },
      h("table", { id: "events" },
        h("thead", null, h("tr", null, [["#", "num"], "Time", "Event", "Node", ["Attempt", "num"], ["Took", "num"], "Says", ["Worker", "wide"], ""].map((c) => h("th", { scope: "col", class: Array.isArray(c) ? c[1] : null }, Array.isArray(c) ? c[0] : c || h("span", { class: "hidden" }, "All of it"))))),
        h("tbody", null, events.slice(0, most).map((e) => h("tr", { key: e.id },
          h("td", { class: "num" }, e.seq), h("td", null, moment(e.timestamp, true)), h("td", null, words(e.type)), h("td", null, e.node_id ?? ""),
          h("td", { class: "num" }, e.attempt ?? ""), h("td", { class: "num" }, duration(e.duration_ms)), h("td", { class: "clip", title: cut(says(e), 500) }, cut(says(e), 160)), h("td", { class: "wide" }, e.worker_id ?? ""),
          h("td", null, h("details", { ontoggle: (t) => { t.currentTarget.querySelector("pre").textContent = t.currentTarget.open ? cut(JSON.stringify(e, null, 1), TEXT) : ""; } }, h("summary", null, "JSON"), h("pre", { "data-keep": true })))))))),
    events.length > most ? h("button", { type: "button", onclick: () => { most += 1000; again(); } }, "Show more") : null);
}
