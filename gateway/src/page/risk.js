// Risk: every limit, how near it is, what tripped.

import { get } from "./api.js";
import { h, show } from "./dom.js";
import { bar, calm, moment, problem, table } from "./parts.js";
import { gap, heard, now, socket } from "./state.js";
import { count, duration, running, tone, words } from "./text.js";

const EVERY = 3000;
const LAST = 50;

export function risk({ box, listen, until }) {
  let data = null, error = "", missing = false, closed = false, sub = null;
  let trips = [];

  async function read() {
    if (!heard() || missing) return;
    const answer = await get("/v1/risk");
    if (closed) return;
    missing = answer.status === 404;
    error = answer.ok || missing ? "" : `The limits could not be read: ${answer.error}`;
    if (answer.ok) data = answer.body;
    draw();
  }

  function follow() {
    sub?.close();
    trips = [];
    sub = socket()?.subscribe({ filter: { type: ["risk_*"] }, from: { last: LAST } }, {
      event(e) { trips.push(e); if (trips.length > LAST) trips.shift(); soon(); },
      gap() { gap(); },
      error(e) { error = e.msg; draw(); },
    });
  }

  const percent = (r) => (r.used_percent === undefined ? null : Number(r.used_percent));
  const row = (r) => {
    const p = percent(r);
    const rule = r.rule;
    return h("tr", { key: r.key, "data-rule": r.key },
      h("td", null, rule?.name ?? r.key), h("td", null, rule?.scope ?? ""), h("td", null, words(rule?.kind)),
      h("td", null, h("span", { class: `state ${tone(r.state)}` }, r.state)),
      h("td", { class: "num" }, r.current ?? "?"), h("td", { class: "num" }, rule?.limit ?? ""), h("td", { class: "num" }, p === null ? "?" : `${p} %`),
      h("td", { class: "meter-cell" }, p === null ? null : bar(p, tone(r.state))),
      h("td", null, rule ? [words(rule.action), rule.target ? ` of ${rule.target}` : "", rule.window ? `, window ${rule.window}` : ""] : ""),
      h("td", { class: "wrap" }, r.problem ?? ""));
  };
  const near = (list) => [...list].sort((a, b) => (percent(b) ?? 1e9) - (percent(a) ?? 1e9));

  function breach(e) {
    const b = e.breach ?? {};
    return h("tr", { key: e.id }, h("td", null, moment(e.timestamp)), h("td", null, h("span", { class: `state ${e.type === "risk_limit_breached" ? "bad" : "warn"}` }, e.type === "risk_limit_breached" ? "tripped" : "near")),
      h("td", null, b.rule ?? b.name ?? ""), h("td", null, b.scope ?? ""), h("td", { class: "num" }, b.current ?? b.value ?? ""), h("td", { class: "num" }, b.limit ?? ""), h("td", { class: "wrap" }, e.reason ?? b.reason ?? ""));
  }

  function draw() {
    show(box,
      h("h1", null, "Risk"), problem(error),
      missing ? h("p", { class: "note warn" }, "This gateway does not tell how near limits are; `haltline risk status` does.") : null,
      h("section", { key: "limits" }, h("h2", null, "Limits, the nearest first"),
        table("Limits", ["Limit", "Scope", "Of", "State", ["Now", "num"], ["Limit", "num"], ["Used", "num"], h("span", { class: "hidden" }, "Share"), "Leads to", "Problem"], near(data?.rules ?? []).map(row), { empty: data ? "No limits are set: nothing trips by itself." : "Not read yet." })),
      h("section", { key: "switches" }, h("h2", null, "Dead-man switches"),
        table("Dead-man switches", ["Scope", "State", "Promised every", "Last heard", "Raises", "By"], (data?.switches ?? []).map((s) => h("tr", { key: s.scope ?? s.by },
          h("td", null, s.scope ?? "?"), h("td", null, h("span", { class: `state ${tone(s.state)}` }, s.state)), h("td", null, typeof s.every === "number" ? duration(s.every) : (s.every ?? "?")), h("td", null, s.at ? h("span", { class: heard() ? "" : "frozen" }, `${running(now() - Date.parse(s.at))} ago`) : "?"), h("td", null, s.level), h("td", null, s.by))), { empty: data ? "None is armed." : "Not read yet." })),
      h("section", { key: "trips" }, h("h2", null, "What tripped"), table("What tripped", ["Time", "What", "Limit", "Scope", ["Was", "num"], ["Limit", "num"], "Reason"], [...trips].reverse().map(breach), { empty: "Nothing among the newest events." }), trips.length >= LAST ? h("p", { class: "muted" }, `The last ${count(LAST)}.`) : null));
  }

  const soon = calm(() => { draw(); read(); }, 500);
  const timer = setInterval(read, EVERY);
  listen("fresh", () => { read(); follow(); });
  for (const kind of ["tick", "link"]) listen(kind, draw);
  until(() => { closed = true; clearInterval(timer); soon.stop(); sub?.close(); });
  draw();
  read();
  follow();
}
