// The halt control. It shows what is stored, never what was asked for: requested, stored, confirmed are
// three things, and each is told when it is known.

import { address, ask, may, me } from "./api.js";
import { confirmation, confirmed, stops } from "./confirm.js";
import { h, show } from "./dom.js";
import { flags, globalFlag, heard, now, on } from "./state.js";
import { moment } from "./parts.js";
import { time, tone } from "./text.js";

const $ = (id) => document.getElementById(id);
const LEVELS = {
  halt: "Halt: no side effect starts; what only reads may",
  reducing: "Reducing: nothing that opens risk starts",
  shutdown: "Shutdown: nothing starts at all",
  hold: "Hold: nothing starts and nothing ends",
  alert: "Alert: everything runs, people watch closer",
};
const KINDS = ["global", "bot", "strategy", "workflow", "venue", "node_type"];
const all = (scope) => (scope === "global" ? "everything" : scope);

/** What the dialog is doing: null, or `{ mode, scope, request }`. */
let open = null;

function badge() {
  const flag = globalFlag();
  const box = $("halt");
  box.dataset.state = flag.state;
  const parts = [...flags.values()].filter((f) => f.scope !== "global").length;
  const last = flag.state === "unknown" && flag.last ? `last known: ${flag.last}` : "";
  show(box,
    h("span", { class: "what" }, "Fleet"), h("strong", { id: "state" }, flag.state.toUpperCase()),
    last ? h("span", { class: "muted", key: "last" }, last) : null,
    parts && heard() ? h("span", { class: "parts", key: "parts" }, `+ ${parts} scope${parts === 1 ? "" : "s"}`) : null);
  const stopped = stops(flag.state) || flag.state === "alert";
  show($("halt-buttons"),
    h("button", { key: "halt", id: "halt-open", type: "button", class: "danger", "aria-haspopup": "dialog", onclick: () => begin("halt", "global") }, stopped ? "Halt more…" : "Halt…"),
    stopped ? h("button", { key: "resume", id: "resume-open", type: "button", "aria-haspopup": "dialog", onclick: () => begin("resume", "global") }, "Resume…") : null);
}

function strip() {
  const shown = heard() ? [...flags.values()].filter((f) => f.state !== "normal") : [];
  show($("flags"), shown.map((f) => h("div", { key: f.scope, class: `flag ${tone(f.state)}`, "data-scope": f.scope },
    h("strong", null, `${f.state.toUpperCase()} ${all(f.scope)}`),
    f.sure === false ? h("strong", null, "not certain: the gateway does not hear the control bucket") : null,
    h("span", { class: "why" }, f.reason || "no reason given"),
    h("span", { class: "muted" }, `by ${f.by || "unknown"} `, f.ts ? moment(f.ts) : "", f.rev ? ` revision ${f.rev}` : ""),
    stops(f.state) ? h("span", { class: "who" }, confirmed(f)) : null,
    f.scope === "global" ? null : h("button", { type: "button", class: "small", onclick: () => begin("resume", f.scope) }, "Resume…"))));
  $("flags").hidden = !shown.length;
}

function begin(mode, scope) {
  open = { mode, scope, level: "halt", kind: "global", id: "", request: null, problem: "" };
  draw();
  $("dialog").showModal();
  $("dialog").querySelector("textarea, input")?.focus();
}

/** What a person has to type to resume. */
const phrase = (scope) => `RESUME ${scope === "global" ? "EVERYTHING" : scope}`;

function draw() {
  if (!open) return;
  const form = open.request ? steps() : open.mode === "halt" ? haltForm() : resumeForm();
  show($("dialog"), h("div", { key: `${open.mode}${open.request ? "-sent" : ""}`, class: "sheet" }, form));
}

const close = () => $("dialog").close();
const head = (text) => h("h2", { id: "dialog-title" }, text);
const field = (label, control) => h("label", null, h("span", null, label), control);
const unsure = () => (heard() ? null : h("p", { class: "note bad", key: "unheard" }, "The gateway is not heard: a request may not arrive. `haltline halt --wait` and the nats CLI reach the control bucket without it."));

function haltForm() {
  const scope = open.kind === "global" ? "global" : `${open.kind}:${open.id}`;
  return h("form", { onsubmit: (e) => { e.preventDefault(); send(open.level, scope, $("halt-reason").value); } },
    head(`${open.level === "halt" ? "Halt" : `Set ${open.level} for`} ${all(scope)}`),
    unsure(),
    may("operator") ? null : h("p", { class: "note bad" }, `This takes the role operator; ${me.name} has the role ${me.role}.`),
    h("div", { class: "row" },
      field("Scope", h("select", { id: "halt-kind", onchange: (e) => { open.kind = e.target.value; draw(); } },
        KINDS.map((k) => h("option", { value: k, selected: k === open.kind }, k === "global" ? "everything" : k.replace("_", " "))))),
      open.kind === "global" ? null : field("Its id", h("input", { id: "halt-id", required: true, maxlength: 128, autocomplete: "off", spellcheck: "false", oninput: (e) => { open.id = e.target.value; draw(); } })),
      field("Level", h("select", { id: "halt-level", onchange: (e) => { open.level = e.target.value; draw(); } },
        Object.entries(LEVELS).map(([level, says]) => h("option", { value: level, selected: level === open.level }, says))))),
    field("Reason", h("input", { id: "halt-reason", required: true, maxlength: 500, autocomplete: "off" })),
    h("div", { class: "row end" },
      h("button", { type: "button", onclick: close }, "Do nothing"),
      h("button", { id: "halt-send", class: "danger", disabled: !may("operator") }, `${open.level === "halt" ? "Halt" : `Set ${open.level} for`} ${all(scope)}`)));
}

function resumeForm() {
  const flag = flags.get(open.scope);
  const wanted = phrase(open.scope);
  return h("form", {
    onsubmit: (e) => {
      e.preventDefault();
      if ($("resume-phrase").value.trim() !== wanted) { open.problem = `Type ${wanted}, in these letters.`; return draw(); }
      if (!flag?.rev) { open.problem = "What is stored is not known: nothing can be resumed that was not looked at."; return draw(); }
      send("normal", open.scope, $("resume-reason").value, flag);
    },
  },
    head(`Resume ${all(open.scope)}`),
    unsure(),
    flag ? h("p", null, h("strong", { class: tone(flag.state) }, flag.state.toUpperCase()), ` by ${flag.by}: ${flag.reason}`) : null,
    h("p", { class: "note" }, "Side effects may start again at once. Executions that the halt ended stay ended. Flags of other scopes stay as they are."),
    may("admin") ? null : h("p", { class: "note bad" }, `Resuming takes the role admin; ${me.name} has the role ${me.role}.`),
    field("Reason", h("input", { id: "resume-reason", required: true, maxlength: 500, autocomplete: "off" })),
    field(`Type ${wanted}`, h("input", { id: "resume-phrase", required: true, autocomplete: "off", spellcheck: "false" })),
    h("p", { class: "note bad", role: "alert", id: "dialog-problem" }, open.problem),
    h("div", { class: "row end" },
      h("button", { type: "button", onclick: close }, "Do nothing"),
      h("button", { id: "resume-send", class: "plain-danger", disabled: !may("admin") }, `Resume ${all(open.scope)}`)));
}

async function send(state, scope, reason, flag) {
  const before = flags.get(scope)?.rev ?? 0;
  const request = { state, scope, before, at: now(), answer: null, answered: null, stored: null };
  open.request = request;
  draw();
  const by = "dashboard, unverified"; // counts only where nobody needs a token
  if (state === "normal") {
    // Only what was looked at is lowered: another revision by now is another halt.
    const body = { reason, by, ...(flag.state === "shutdown" ? { confirm: scope } : {}) };
    request.answer = await ask("POST", address(["control", scope, "lower"]), { body, headers: { "if-match": `"${flag.rev}"` } });
  } else {
    request.answer = await ask("POST", address(["control", scope, "raise"]), { body: { state, reason, by } });
  }
  request.answered = now();
  if (request.answer.ok) stored(request, request.answer.body.state, request.answer.body.revision);
  draw();
}

// Stored is what comes back from the control bucket: by a frame, or as the answer.
function stored(request, state, rev) {
  request.stored ??= { state, rev, at: now() };
}

function steps() {
  const r = open.request;
  const flag = flags.get(r.scope);
  if (flag && heard() && (flag.rev ?? 0) > r.before) stored(r, flag.state, flag.rev);
  const c = flag && r.stored && flag.rev === r.stored.rev ? confirmation(flag) : null;
  const failed = r.answer && !r.answer.ok && !r.stored;
  // Where the gateway counts it, nothing in flight is part of it; a silent worker whose lease is over can start nothing.
  const whole = c && (c.complete ?? c.total === c.confirmed);
  const step = (id, done, text, bad) => h("li", { id, key: id, class: bad ? "bad" : done ? "done" : "open", "data-done": String(!!done) }, h("span", { class: "sign", "aria-hidden": "true" }, bad ? "✕" : done ? "✓" : "○"), h("span", null, text));
  const answered = !r.answer ? "waiting for the answer" : r.answer.ok ? "answered" : r.answer.status ? `refused: ${r.answer.error}` : r.answer.error;
  const differs = r.stored && r.stored.state !== r.state ? `, graver than what was asked for` : "";
  return h("div", null,
    head(`${r.state === "normal" ? "Resume" : r.state === "halt" ? "Halt" : `Set ${r.state} for`} ${all(r.scope)}`),
    h("div", { role: "status" }, h("ol", { class: "steps" },
      step("step-requested", true, `Requested ${time(r.at, now(), true)}; ${answered}`, failed),
      step("step-stored", r.stored, r.stored ? `Stored ${time(r.stored.at, now(), true)} as revision ${r.stored.rev}: ${r.stored.state.toUpperCase()}${differs}` : failed ? "NOT known to be stored" : "Not stored yet", failed),
      stops(r.stored?.state ?? r.state) ? step("step-confirmed", whole, c ? confirmed(flag) : r.stored ? "Who has confirmed it is not known yet" : "No worker has confirmed it yet") : null)),
    flag && r.stored && (flag.rev ?? 0) > r.stored.rev ? h("p", { class: "note warn", id: "step-later" }, `Changed again since: ${flag.state.toUpperCase()}, revision ${flag.rev}, by ${flag.by}.`) : null,
    failed ? h("p", { class: "note bad" }, r.answer.status ? "Nothing was changed by this request." : "It may have been stored all the same. Look at the state above; if in doubt, use `haltline halt --wait`.") : null,
    heard() ? null : h("p", { class: "note bad" }, "The gateway is not heard: what follows is not known here."),
    h("div", { class: "row end" },
      failed ? h("button", { type: "button", onclick: () => { open.request = null; draw(); } }, "Back") : null,
      h("button", { type: "button", id: "dialog-close", onclick: close }, "Close")));
}

/** Begins. */
export function start() {
  const all = () => { badge(); strip(); if (open) draw(); };
  for (const kind of ["flags", "link", "confirmed"]) on(kind, all);
  $("dialog").addEventListener("close", () => { open = null; show($("dialog")); });
  all();
}
