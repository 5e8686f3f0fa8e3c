// The page: shows what the gateway says, and says so when it does not know. Text only ever goes
// into the document as text. Nothing is shown before the server has stored it.

const $ = (id) => document.getElementById(id);
const RUNS_MAX = 200; // rows; older ones are on the server
const LOG_MAX = 300; // lines of raw events
const LINE_MAX = 2000; // characters of one line
const NODES_MAX = 2000; // nodes shown of one execution

const runs = new Map(); // execution id -> { ...summary, nodes: Map }, most recently changed last
const log = [];
let socket = null;
let seq = null; // cursor of the last event shown
let tries = 0;
let silence = null; // timer: the server pings, so silence means the link is lost
let selected = null;
let dirty = false;
let workers = null;
let flag = { state: "unknown" };

function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const ws = new WebSocket(`${scheme}//${location.host}/v1/ws`, "haltline.v1.json");
  socket = ws;
  setLink("connecting", false);
  heard();
  ws.onopen = () => ws.send(JSON.stringify({ t: "hello", v: 1, client: { name: "page" } }));
  ws.onmessage = (m) => { if (socket === ws) { heard(); frame(JSON.parse(m.data)); } };
  ws.onclose = (e) => { if (socket === ws) lost(e.code, e.reason); };
}

function heard() {
  clearTimeout(silence);
  silence = setTimeout(() => { const ws = socket; lost(0, "nothing heard"); ws?.close(); }, 35000);
}

function lost(code, reason) {
  clearTimeout(silence);
  socket = null;
  setLink("not connected", false);
  $("lost").textContent = `UNKNOWN: the gateway is out of reach${reason ? ` (${reason})` : ""}. What is shown below is old.`;
  $("lost").hidden = false;
  document.body.classList.add("lost");
  // What was stored then is no word about now.
  $("control-note").textContent = "";
  showFlag({ state: "unknown" });
  if (code >= 4500) { $("lost").textContent += " Reload the page."; return; }
  const delay = Math.min(15000, 500 * 2 ** Math.min(tries++, 5)) * (0.5 + Math.random());
  setTimeout(connect, delay);
}

function setLink(text, live) {
  $("link").textContent = text;
  $("link").classList.toggle("live", live);
}

function subscribe() {
  const from = seq === null ? { last: 200 } : { cursor: seq };
  socket.send(JSON.stringify({ t: "sub", rid: 1, id: "all", filter: {}, from }));
}

function frame(f) {
  switch (f.t) {
    case "welcome":
      tries = 0;
      setLink("replaying", false);
      $("lost").hidden = true;
      document.body.classList.remove("lost");
      showFlag(f.halt);
      load().finally(() => { if (socket?.readyState === 1) subscribe(); });
      break;
    case "ping":
      socket.send('{"t":"pong"}');
      setLink(f.upstream ? "live" : "log interrupted", f.upstream);
      break;
    case "live": setLink("live", true); break;
    case "halt": showFlag(f); break;
    case "ev": event(f.d, f.c); break;
    case "mark": seq = f.c; break;
    case "gap":
      note(`gap: events after ${f.after} and before ${f.next} are missing (${f.reason})`);
      if (f.reason === "epoch") seq = null;
      load();
      break;
    case "err":
      note(`error: ${f.code} ${f.msg}`);
      if (f.rid === 1) setTimeout(() => { if (socket?.readyState === 1) subscribe(); }, 2000);
      break;
    case "bye": setLink("gateway is stopping", false); break;
  }
}

// The list as the gateway has it; events change it from there on.
async function load() {
  const answer = await ask("GET", `/v1/executions?limit=${RUNS_MAX}`);
  if (!answer.ok) { $("runs-note").textContent = `The list could not be read: ${answer.error}`; return; }
  $("runs-note").textContent = "";
  for (const s of answer.body.executions.reverse()) {
    const nodes = runs.get(s.execution_id)?.nodes ?? new Map();
    runs.delete(s.execution_id);
    runs.set(s.execution_id, { ...s, nodes });
  }
  changed();
}

// A status that this page does not know is an end: nothing is offered that could not work.
const ended = (status) => !["running", "waiting", "unknown"].includes(status);
const label = (status) => String(status ?? "").replaceAll("_", " ");

function event(e, cursor) {
  seq = cursor;
  log.push(`${cursor} ${JSON.stringify(e)}`.slice(0, LINE_MAX));
  if (log.length > LOG_MAX) log.splice(0, log.length - LOG_MAX);
  if (e.execution_id) apply(e);
  changed();
}

function apply(e) {
  let run = runs.get(e.execution_id);
  if (!run) {
    run = { execution_id: e.execution_id, workflow_id: e.workflow_id, bot_id: e.bot_id, status: "running", nodes: new Map() };
    runs.set(e.execution_id, run);
    while (runs.size > RUNS_MAX) runs.delete(runs.keys().next().value);
  }
  const kind = e.type;
  if (kind === "execution_started") {
    run.started_at = e.timestamp;
    run.node_count = e.node_count;
  } else if (kind.startsWith("execution_")) {
    run.status = e.status ?? kind.slice("execution_".length);
    run.duration_ms = e.duration_ms;
    run.error = [e.error ?? e.reason, ...(e.errors ?? []).map((f) => `${f.node_id}: ${f.error} (${f.on_error})`)].filter(Boolean).join("; ");
  } else if (kind.startsWith("node_")) {
    applyNode(run, e);
  }
}

function applyNode(run, e) {
  const status = { node_started: "running", node_retrying: "retrying", node_completed: "completed", node_failed: "failed", node_refused: "refused", node_skipped: "skipped", node_unknown: "unknown" }[e.type];
  if (!status) return;
  if (!run.nodes.has(e.node_id) && run.nodes.size >= NODES_MAX) return;
  const node = run.nodes.get(e.node_id) ?? {};
  // Notes and results travel apart: a start that comes late does not undo a result.
  if (node.done && (status === "running" || status === "retrying")) return;
  run.nodes.set(e.node_id, {
    status, done: status !== "running" && status !== "retrying",
    attempt: e.attempt ?? node.attempt, ms: e.duration_ms, error: e.error ?? e.reason, type: e.error_type,
  });
  run.done = [...run.nodes.values()].filter((n) => n.status === "completed").length;
}

function changed() {
  if (dirty) return;
  dirty = true;
  // A few times a second at most: under load the page must stay usable.
  setTimeout(() => requestAnimationFrame(() => { dirty = false; draw(); }), 150);
}

function cell(value, cls) {
  const td = document.createElement("td");
  const text = String(value ?? "").slice(0, 500); // the record has all of it
  td.textContent = text;
  td.title = text;
  if (cls) td.className = cls;
  return td;
}

const tone = (status) => ({
  running: "", completed: "good", failed: "bad", halted: "bad", refused: "bad", timed_out: "bad", unknown: "bad",
}[status] ?? "warn");

function draw() {
  $("pos").textContent = seq === null ? "" : `as of ${seq}`;
  const rows = [...runs.values()].reverse().map((r) => {
    const tr = document.createElement("tr");
    const open = document.createElement("button");
    open.textContent = r.execution_id;
    open.onclick = () => select(r.execution_id);
    const first = document.createElement("td");
    first.append(open);
    const done = Math.max(r.done ?? 0, ended(r.status) ? (r.nodes_completed ?? 0) : 0);
    const started = r.started_at ? new Date(r.started_at).toLocaleTimeString() : "";
    tr.append(first, cell(label(r.status), tone(r.status)), cell(`${done}/${r.node_count ?? "?"}`), cell(started),
      cell(r.duration_ms?.toFixed(1)), cell(r.workflow_id), cell(r.bot_id));
    return tr;
  });
  $("runs").replaceChildren(...rows);
  $("log").textContent = log.slice().reverse().join("\n");
  drawDetail();
}

function drawDetail() {
  const run = selected && runs.get(selected);
  $("detail").hidden = !run;
  if (!run) return;
  $("detail-title").textContent = `${run.execution_id}: ${label(run.status)}`;
  $("detail-error").textContent = [run.error ?? run.reason, run.truncated].filter(Boolean).join(" ");
  $("cancel-form").hidden = ended(run.status);
  $("nodes").replaceChildren(...[...run.nodes].map(([id, n]) => {
    const tr = document.createElement("tr");
    tr.append(cell(id), cell(label(n.status), tone(n.status)), cell(n.attempt), cell(n.ms?.toFixed(1)), cell([n.type, n.error].filter(Boolean).join(": ")));
    return tr;
  }));
}

// Older events of an execution that was picked; live ones are applied as they come.
async function select(id) {
  selected = id;
  drawDetail();
  $("detail").scrollIntoView({ block: "start" });
  let after = null;
  for (let page = 0; page < 10; page++) {
    const query = after === null ? "" : `?after=${after}`;
    const answer = await ask("GET", `/v1/executions/${encodeURIComponent(id)}/events${query}`);
    const run = runs.get(id);
    if (!answer.ok || !run || selected !== id) return;
    for (const e of answer.body.events) if (e.type.startsWith("node_")) applyNode(run, e);
    changed();
    after = answer.body.next;
    if (after === null) { run.truncated = undefined; return; }
    run.truncated = "Only the first events are shown.";
  }
}

function showFlag(f) {
  flag = f;
  const unsure = f.sure === false;
  $("control").dataset.state = unsure ? "unknown" : f.state;
  $("state").textContent = f.state.toUpperCase() + (unsure && f.state !== "unknown" ? " (not certain: the gateway lost its watch)" : "");
  $("who").textContent = f.state === "unknown" ? "" : `by ${f.by || "unknown"}${f.ts ? ` at ${new Date(f.ts).toLocaleString()}` : ""}, revision ${f.rev}`;
  $("why").textContent = f.reason ? `Reason: ${f.reason}` : "";
  const halted = f.state === "halt" || f.state === "shutdown" || f.state === "hold";
  $("resume-form").hidden = !halted;
  $("halt-form").hidden = halted;
  drawConfirmed();
}

function drawConfirmed() {
  if (!workers || !flag.rev) { $("confirmed").textContent = ""; return; }
  const seen = workers.filter((w) => w.control_revision >= flag.rev).length;
  $("confirmed").textContent = `${seen} of ${workers.length} workers have seen this`;
}

async function readWorkers() {
  if (!document.hidden && socket?.readyState === 1) {
    const answer = await ask("GET", "/v1/workers");
    workers = answer.ok ? answer.body.workers : null;
    drawConfirmed();
  }
  setTimeout(readWorkers, 3000);
}

async function ask(method, path, body) {
  try {
    const response = await fetch(path, {
      method, signal: AbortSignal.timeout(20000),
      headers: body ? { "content-type": "application/json" } : {},
      body: body && JSON.stringify(body),
    });
    const answer = await response.json();
    return response.ok ? { ok: true, body: answer } : { ok: false, error: answer.detail ?? response.statusText };
  } catch (e) {
    return { ok: false, error: e.message };
  }
}

function note(text) {
  log.push(text.slice(0, LINE_MAX));
  changed();
}

// What was stored comes back as a halt frame; here only what became of the request is told.
async function setFlag(state, reason, button, fields) {
  button.disabled = true;
  $("control-note").textContent = `Asking for ${state}…`;
  const answer = await ask("PUT", "/v1/control/global", { state, reason, by: "page, unverified" });
  button.disabled = false;
  if (answer.ok) {
    $("control-note").textContent = `Stored as revision ${answer.body.revision}: ${answer.body.state}.`;
    for (const field of fields) field.value = "";
  } else {
    $("control-note").textContent = `NOT confirmed: ${answer.error}. Look at the state above before you go on.`;
  }
}

$("halt-form").onsubmit = (e) => {
  e.preventDefault();
  setFlag("halt", $("halt-reason").value, $("halt"), [$("halt-reason")]);
};
$("resume-form").onsubmit = (e) => {
  e.preventDefault();
  if ($("resume-phrase").value !== "RESUME") { $("control-note").textContent = "Type RESUME in capitals to resume."; return; }
  setFlag("normal", $("resume-reason").value, $("resume"), [$("resume-reason"), $("resume-phrase")]);
};
$("cancel-form").onsubmit = async (e) => {
  e.preventDefault();
  const answer = await ask("POST", `/v1/executions/${encodeURIComponent(selected)}/cancel`, { reason: $("cancel-reason").value, by: "page, unverified" });
  $("cancel-note").textContent = answer.ok ? "Requested; it ends when its running nodes have." : `Not confirmed: ${answer.error}`;
};

connect();
readWorkers();
