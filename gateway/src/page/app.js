// The dashboard: views by address (`#/executions?status=failed`), each alone on the page.

import * as control from "./control.js";
import { h, show } from "./dom.js";
import * as shell from "./shell.js";
import { on, tell } from "./state.js";
import { audit } from "./audit.js";
import { events } from "./events.js";
import { execution } from "./execution.js";
import { executions } from "./executions.js";
import { overview } from "./overview.js";
import { risk } from "./risk.js";
import { workers } from "./workers.js";
import { workflow } from "./workflow.js";
import { workflows } from "./workflows.js";

const VIEWS = { "": overview, executions, execution, workflows, workflow, workers, risk, audit, events };
const main = document.getElementById("main");
let current = null; // { view, close }

function route() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  const [view, ...rest] = path.split("/");
  let args;
  try { args = rest.map(decodeURIComponent); } catch { args = []; }
  leave();
  shell.navigation(view);
  const make = VIEWS[view];
  const box = h("div", { class: `view ${view || "overview"}` });
  main.replaceChildren(box); // another box: what is left of the view before draws into its own
  document.title = `${[args[0], view || "overview"].filter(Boolean).join(" · ")} · Haltline`;
  if (!make) {
    show(box, h("h1", null, "There is no such view"), h("p", null, h("a", { href: "#/" }, "Overview")));
    return;
  }
  // A view draws itself into its box, and is told when to stop.
  const stops = [];
  make({ box, args, query: new URLSearchParams(query), until: (stop) => stops.push(stop), listen: (kind, f) => stops.push(on(kind, f)) });
  current = { close: () => stops.forEach((stop) => stop()) };
  main.focus({ preventScroll: true });
}

function leave() {
  current?.close();
  current = null;
}

control.start();
shell.start();
on("leave", leave);
on("enter", route);
window.addEventListener("hashchange", () => { if (current || !document.getElementById("login")) route(); });
shell.navigation(location.hash.replace(/^#\/?/, "").split(/[/?]/)[0]);
tell("link");
shell.begin();
