// Workflows that are stored.

import { get } from "./api.js";
import { h, show } from "./dom.js";
import { link, moment, problem, table, workflow } from "./parts.js";
import { heard } from "./state.js";
import { count } from "./text.js";

const ROWS = 500;

export function workflows({ box, query, listen, until }) {
  let list = null, error = "", closed = false;
  let wanted = query.get("q") ?? "";

  async function read() {
    if (!heard()) return;
    const answer = await get("/v1/workflows");
    if (closed) return;
    error = answer.ok ? "" : `The workflows could not be read: ${answer.error}`;
    if (answer.ok) list = answer.body.workflows;
    draw();
  }

  function draw() {
    const found = (list ?? []).filter((w) => w.id.includes(wanted));
    show(box,
      h("h1", null, "Workflows"), problem(error),
      h("form", { class: "row", role: "search", onsubmit: (e) => e.preventDefault() },
        h("label", null, h("span", null, "Id contains"), h("input", { name: "q", value: wanted, autocomplete: "off", spellcheck: "false", oninput: (e) => { wanted = e.target.value; window.history.replaceState(null, "", link("workflows", { q: wanted })); draw(); } })),
        h("span", { class: "muted" }, list ? `${count(found.length)} of ${count(list.length)}${found.length > ROWS ? `, the first ${ROWS} are shown` : ""}` : "")),
      table("Workflows", ["Workflow", "Latest version", "Stored", "Executions"], found.slice(0, ROWS).map((w) => h("tr", { key: w.id },
        h("td", null, workflow(w.id)), h("td", null, w.version), h("td", null, moment(w.at)), h("td", null, h("a", { href: link("executions", { workflow_id: w.id }) }, "executions")))), { empty: list ? "None." : "Not read yet." }));
  }

  listen("fresh", read);
  listen("link", draw);
  until(() => { closed = true; });
  draw();
  read();
}
