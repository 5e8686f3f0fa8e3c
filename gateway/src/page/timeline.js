// When each node waited and ran: one line a node, the wait in the queue apart from the run.

import { h, s } from "./dom.js";
import { state } from "./parts.js";
import { count, duration } from "./text.js";

const ROWS = 200;
let most = ROWS;

/** The section. */
export function timeline({ definition, run, times, status, started, end, pick, chosen, again }) {
  const whole = Math.max(1, end - started);
  const begun = (node) => times.get(node.id)?.begun ?? Infinity;
  // As they began; what has not begun keeps the definition's order.
  const nodes = [...definition.nodes].sort((a, b) => (begun(a) === begun(b) ? 0 : begun(a) - begun(b)));
  const x = (ms) => Math.max(0, Math.min(1000, ((ms - started) / whole) * 1000));
  const part = (cls, from, to) => (to >= from ? s("rect", { class: cls, x: x(from), y: 2, width: Math.max(2, x(to) - x(from)), height: 10 }) : null);
  const row = (node) => {
    const t = times.get(node.id);
    const n = run.nodes.get(node.id);
    const st = status(node.id);
    const until = t.begun ?? (n?.finished ? Date.parse(n.finished) : end);
    return h("tr", { key: node.id, class: chosen === node.id ? "chosen" : "", "data-node": node.id, "data-status": st },
      h("td", null, h("button", { type: "button", class: "link", onclick: () => pick(node.id) }, node.id)),
      h("td", null, state(st)),
      h("td", { class: "num" }, n?.attempts.length || ""),
      h("td", { class: "num" }, t.wait === null ? "" : duration(t.wait)),
      h("td", { class: "num" }, t.run === null ? "" : duration(t.run)),
      h("td", { class: "lane" }, s("svg", { viewBox: "0 0 1000 14", preserveAspectRatio: "none", "aria-hidden": "true" },
        t.ready ? part("wait", t.ready, until) : null,
        (n?.attempts ?? []).map((a) => part(`ran ${a.status}`, Date.parse(a.started), a.ended ? Date.parse(a.ended) : end)))),
      h("td", { class: "wide" }, n?.worker ?? ""),
      h("td", { class: "clip", title: n?.error ?? "" }, [n?.error_type, n?.error].filter(Boolean).join(": ").slice(0, 160)));
  };
  return h("section", { key: "timeline" },
    h("h2", null, "Timeline"),
    h("p", { class: "legend muted" }, h("i", { class: "wait" }), "waited in the queue ", h("i", { class: "ran" }), `ran; the line is ${duration(whole)} long`),
    h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Timeline" },
      h("table", { id: "nodes" },
        h("thead", null, h("tr", null, ["Node", "Status", ["Attempts", "num"], ["Waited", "num"], ["Ran", "num"], ["When", "lane"], ["Worker", "wide"], "Error"].map((c) => h("th", { scope: "col", class: Array.isArray(c) ? c[1] : null }, Array.isArray(c) ? c[0] : c)))),
        h("tbody", null, nodes.slice(0, most).map(row)))),
    nodes.length > most ? h("button", { type: "button", onclick: () => { most += 1000; again(); } }, `Show more of ${count(nodes.length)} nodes`) : null);
}
