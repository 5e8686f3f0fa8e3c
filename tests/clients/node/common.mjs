// What the Node parts share: checks as TAP lines, bounded waits, REST by fetch.

import { spawnSync } from "node:child_process";

export const env = process.env;
export const KINDS = ["execution_started", ...Array(3).fill(["node_started", "node_completed"]).flat(), "execution_completed"];

let failed = 0;

export async function check(name, test) {
  try {
    await test();
    console.log(`ok - ${name}`);
  } catch (e) {
    failed += 1;
    console.log(`not ok - ${name} # ${String(e?.message ?? e).replace(/\s+/g, " ").slice(0, 600)}`);
  }
}

// The driver counts a part without this line as failed: it broke off.
export function end() {
  console.log("end");
  process.exit(failed ? 1 : 0);
}

export function equal(found, wanted, what) {
  const [a, b] = [JSON.stringify(found), JSON.stringify(wanted)];
  if (a !== b) throw new Error(`${what}: ${a} instead of ${b}`);
}

export function truth(value, what) {
  if (!value) throw new Error(what);
}

export const sleep = (ms) => new Promise((done) => setTimeout(done, ms));

export async function until(test, what, ms = 10000) {
  const over = Date.now() + ms;
  for (;;) {
    const value = await test();
    if (value) return value;
    if (Date.now() > over) throw new Error(`not within ${ms} ms: ${what}`);
    await sleep(30);
  }
}

export async function http(method, path, body, base = env.HALTLINE_GATEWAY) {
  const response = await fetch(base + path, {
    method, body: body && JSON.stringify(body), signal: AbortSignal.timeout(30000),
    headers: body ? { "content-type": "application/json" } : {},
  });
  return { status: response.status, headers: response.headers, body: await response.json() };
}

export function chain(id, type = "static") {
  const params = type === "sleep" ? { duration: "400ms" } : { outputs: { x: "1" } };
  const nodes = [1, 2, 3].map((i) => ({ id: `n${i}`, type, params, depends_on: i > 1 ? [`n${i - 1}`] : [] }));
  return { id, version: "1", bot_id: `bot-${id}`, nodes };
}

// An order, which a halt keeps from starting.
export function acting(id) {
  const inputs = { market: { input: "market" }, signal: { value: true } };
  const params = { side: "buy", quantity: "1", symbol: "IBM" };
  return { id, version: "1", bot_id: `bot-${id}`, nodes: [{ id: "buy", type: "paper_order", params, inputs }] };
}

export async function put(definition) {
  const answer = await http("PUT", `/v1/workflows/${definition.id}`, definition);
  truth([200, 201].includes(answer.status), `PUT of a workflow: ${answer.status} ${JSON.stringify(answer.body)}`);
}

export async function run(workflow_id) {
  const answer = await http("POST", "/v1/executions?wait=20s", { workflow_id });
  equal([answer.status, answer.body.status], [200, "completed"], "a run");
  return answer.body.execution_id;
}

export function complete(events) {
  equal(events.map((e) => e.type), KINDS, "types");
  equal(new Set(events.map((e) => e.id)).size, KINDS.length, "distinct ids");
  equal(events.at(-1).event_count, KINDS.length, "event_count");
}

export function halt_by_nats() {
  const words = ["--server", env.HALTLINE_NATS_URL, "kv", "put", "haltline_control", "halt.global", "HALT"];
  const done = spawnSync(env.HALTLINE_NATS_CLI, words, { timeout: 30000, encoding: "utf8" });
  truth(done.status === 0, `nats kv put: ${done.stderr}`);
}
