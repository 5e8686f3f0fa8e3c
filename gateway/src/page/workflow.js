// One workflow: its graph, its versions, and its last runs as a grid of runs by nodes.

import { address, get } from "./api.js";
import { h, show } from "./dom.js";
import { parents } from "./fold.js";
import { Graph } from "./graph.js";
import { calm, execution, link, moment, problem, state, took } from "./parts.js";
import { heard } from "./state.js";
import { count, duration, ended, sign, tone, words } from "./text.js";

const RUNS = 20;
const NODES = 200; // rows of the grid
const AT_ONCE = 4; // reads of runs at a time

export function workflow({ box, args, query, listen, until }) {
  const id = args[0] ?? "";
  const version = query.get("version") ?? "";
  let definition = null, graph = null, versions = null, runs = null, error = "", closed = false, chosen = null;
  const nodes = new Map(); // execution -> { status, nodes: Map }

  async function read() {
    if (!heard()) return;
    const [d, v] = await Promise.all([get(address(["workflows", id], { version })), get(address(["workflows", id, "versions"]))]);
    if (closed) return;
    error = d.ok ? "" : d.error;
    if (d.ok && !definition) { definition = d.body; graph = new Graph(definition, () => draw()); }
    versions = v.body?.versions ? v.body : null;
    draw();
    await readRuns();
  }

  async function readRuns() {
    if (!heard() || closed) return;
    const answer = await get(address(["executions"], { workflow_id: id, limit: RUNS }));
    if (closed || !answer.ok) return;
    runs = answer.body.executions;
    draw();
    // What has ended does not change.
    const wanted = runs.filter((r) => nodes.get(r.execution_id)?.status !== r.status || !ended(r.status));
    const work = async () => {
      for (let r; (r = wanted.shift()) && !closed; ) {
        const one = await get(address(["executions", r.execution_id, "nodes"]));
        if (one.ok) nodes.set(r.execution_id, { status: r.status, nodes: new Map(one.body.nodes.map((n) => [n.node_id, n])) });
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, work));
    draw();
  }

  function grid() {
    if (!runs || !definition) return h("p", { class: "muted" }, "Not read yet.");
    if (!runs.length) return h("p", { class: "muted" }, "It has not run.");
    const shown = [...runs].reverse(); // the newest on the right
    const cell = (r, node) => {
      const n = nodes.get(r.execution_id)?.nodes.get(node.id);
      const status = n?.status ?? (nodes.has(r.execution_id) ? (ended(r.status) ? "not_run" : "pending") : null);
      const says = status ? `${node.id}: ${words(status)}${n?.duration_ms !== undefined ? `, ${duration(n.duration_ms)}` : ""}${n?.attempts > 1 ? `, ${n.attempts} attempts` : ""}` : "not read yet";
      return h("td", { key: r.execution_id, class: `cell ${status ? tone(status) : ""}`, title: says }, h("a", { href: link(`execution/${encodeURIComponent(r.execution_id)}`, { node: node.id }), "aria-label": `${says}, ${r.execution_id}` }, status ? sign(status) : "·"));
    };
    return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Last runs by nodes" },
      h("table", { id: "grid", class: "grid" },
        h("thead", null, h("tr", null, h("th", { scope: "col" }, "Node"), shown.map((r) => h("th", { key: r.execution_id, scope: "col", class: `cell ${tone(r.status)}`, title: `${r.execution_id}: ${words(r.status)}` },
          h("a", { href: `#/execution/${encodeURIComponent(r.execution_id)}`, "aria-label": `${r.execution_id}: ${words(r.status)}` }, sign(r.status)))))),
        h("tbody", null, definition.nodes.slice(0, NODES).map((n) => h("tr", { key: n.id }, h("th", { scope: "row" }, n.id), shown.map((r) => cell(r, n)))))),
      definition.nodes.length > NODES ? h("p", { class: "muted" }, `The first ${NODES} of ${count(definition.nodes.length)} nodes.`) : null);
  }

  function about() {
    const n = definition.nodes.find((x) => x.id === chosen);
    if (!n) return null;
    const { ui, ...rest } = n;
    return h("section", { class: "card", key: "about" }, h("div", { class: "row title" }, h("h2", null, n.name || n.id), h("span", { class: "muted" }, `${n.id} · ${n.type}`), parents(n).length ? h("span", null, `after ${parents(n).join(", ")}`) : null), h("pre", { tabindex: "0", role: "region", "aria-label": "Definition of the node" }, JSON.stringify(rest, null, 2)));
  }

  function draw() {
    if (closed) return;
    const d = definition;
    show(box,
      h("div", { class: "row title" }, h("h1", null, d?.name || id), d?.name && d.name !== id ? h("span", { class: "muted" }, id) : null, h("a", { href: link("executions", { workflow_id: id }) }, "Executions")),
      problem(error),
      d?.description ? h("p", { key: "description" }, d.description) : null,
      d ? h("p", { class: "muted", key: "facts" }, [`version ${d.version}`, `${count(d.nodes.length)} nodes`, d.bot_id && `bot ${d.bot_id}`, d.strategy_id && `strategy ${d.strategy_id}`].filter(Boolean).join(" · ")) : null,
      versions ? h("p", { class: "versions", key: "versions" }, "Versions: ", versions.versions.slice(-50).reverse().map((v) => h("a", { key: v, href: link(`workflow/${encodeURIComponent(id)}`, { version: v }), "aria-current": v === d?.version ? "true" : null }, v === versions.latest ? `${v} (latest)` : v)), versions.versions.length > 50 ? ` and ${count(versions.versions.length - 50)} older` : "") : null,
      d ? h("section", { key: "graph" }, h("h2", null, "Graph"), graph.draw({ chosen, pick: (n) => { chosen = chosen === n ? null : n; draw(); }, label: `Graph of ${id}` })) : null,
      d ? about() : null,
      h("section", { key: "runs" }, h("h2", null, `Last ${RUNS} runs by nodes`, h("span", { class: "muted" }, " the newest on the right")), grid()),
      runs?.length ? h("section", { key: "list" }, h("h2", null, "Last runs"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Last runs" }, h("table", null,
        h("thead", null, h("tr", null, ["Execution", "Status", "Version", "Started", "Took"].map((t) => h("th", { scope: "col" }, t)))),
        h("tbody", null, runs.slice(0, RUNS).map((r) => h("tr", { key: r.execution_id }, h("td", null, execution(r.execution_id)), h("td", null, state(r.status)), h("td", null, r.workflow_version), h("td", null, moment(r.started_at)), h("td", null, took(r)))))))) : null);
  }

  const soon = calm(readRuns, 2000);
  listen("event", (e) => { if (e.workflow_id === id) soon(); });
  listen("fresh", read);
  for (const kind of ["tick", "link"]) listen(kind, draw);
  until(() => { closed = true; soon.stop(); });
  draw();
  read();
}
