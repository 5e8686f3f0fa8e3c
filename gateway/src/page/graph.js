// The picture of a definition, and on it where the nodes of an execution stand.

import { h, s } from "./dom.js";
import { NODE_H, NODE_W, layout } from "./layout.js";
import { sign, tone, words } from "./text.js";

/** More nodes than this are not drawn unless someone asks: a browser would be busy for seconds. */
export const DRAW_MAX = 2000;

const short = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

function path(points) {
  let d = `M${points[0][0]},${points[0][1]}`;
  for (let i = 1; i < points.length; i++) {
    const [[ax, ay], [bx, by]] = [points[i - 1], points[i]];
    const half = (bx - ax) / 2;
    d += ay === by ? `L${bx},${by}` : `C${ax + half},${ay} ${bx - half},${by} ${bx},${by}`;
  }
  return d;
}

/** A graph of one definition; `draw(status, detail, chosen)` gives its elements. */
export class Graph {
  #definition;
  #layout = null;
  #asked = false;
  #again;

  /** `again` is called when it is to be drawn after all. */
  constructor(definition, again) {
    this.#definition = definition;
    this.#again = again;
  }

  /** `status(id)`: a state or null; `detail(id)`: a second line; `pick(id)`: one was chosen. */
  draw({ status = () => null, detail = () => "", chosen = null, pick = () => {}, label = "Graph of the workflow" }) {
    const nodes = this.#definition.nodes;
    if (nodes.length > DRAW_MAX && !this.#asked) {
      return h("div", { class: "ask", key: "ask" },
        h("p", null, `${nodes.length.toLocaleString("en-US")} nodes: drawing them takes a while.`),
        h("button", { type: "button", onclick: () => { this.#asked = true; this.#again(); } }, "Draw it anyway"));
    }
    this.#layout ??= layout(this.#definition);
    const { width, height, edges } = this.#layout;
    // Drawn at its size; smaller where that is still readable, else it scrolls.
    return h("div", { class: "scroll graph", key: "graph", tabindex: "0", role: "region", "aria-label": label },
      s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label },
        s("defs", null, s("marker", { id: "tip", viewBox: "0 0 8 8", refX: 7.5, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" }, s("path", { d: "M0,0L8,4L0,8Z", class: "tip" }))),
        edges.map((e) => s("path", {
          key: `${e.from} ${e.to}`, d: path(e.points), class: `edge ${status(e.from) === "completed" ? "past" : ""}`,
          "marker-end": "url(#tip)", "data-from": e.from, "data-to": e.to,
        })),
        nodes.map((n) => this.#node(n, status(n.id), detail(n.id), chosen === n.id, pick))));
  }

  #node(n, state, detail, chosen, pick) {
    const { x, y } = this.#layout.nodes.get(n.id);
    const name = n.name || n.id;
    const choose = () => pick(n.id);
    return s("g", {
      key: n.id, class: `node ${state ? tone(state) : "plain"} ${state === "pending" || state === "not_run" ? "pending" : ""} ${chosen ? "chosen" : ""}`,
      transform: `translate(${x},${y})`, role: "button", tabindex: "0", "aria-pressed": String(chosen), "data-node": n.id, "data-status": state ?? "",
      onclick: choose, onkeydown: (e) => { if (e.key === "Enter" || e.key === " ") { e.preventDefault(); choose(); } },
    },
      s("title", null, [`${n.id} (${n.type})`, n.category, state && words(state)].filter(Boolean).join(", ")),
      s("rect", { width: NODE_W, height: NODE_H, rx: 4 }),
      state ? s("rect", { class: "edgebar", width: 4, height: NODE_H, rx: 2 }) : null,
      s("text", { x: 13, y: 19, class: "name" }, short(name, state ? 19 : 22)),
      state ? s("text", { x: NODE_W - 10, y: 19, class: "sign", "text-anchor": "end" }, sign(state)) : null,
      s("text", { x: 13, y: 36, class: "more" }, short(detail || n.type, 26)));
  }
}
