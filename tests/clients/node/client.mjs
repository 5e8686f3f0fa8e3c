// gateway/js/haltline.js as a dashboard uses it: fetched from the gateway, on ws, through restarts.

import { createServer, connect as dial } from "node:net";
import { writeFileSync, mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import WebSocket from "ws";
import { chain, check, complete, end, env, equal, halt_by_nats, http, put, run, truth, until } from "./common.mjs";

const fetched = await fetch(`${env.HALTLINE_GATEWAY}/client/haltline.js`);
const file = join(mkdtempSync(join(tmpdir(), "haltline-js-")), "haltline.mjs");
writeFileSync(file, await fetched.text());
const { Haltline } = await import(pathToFileURL(file));

// Between client and gateway: can break all connections.
const sockets = new Set();
const target = new URL(env.HALTLINE_WS);
const proxy = createServer((from) => {
  const to = dial(target.port, target.hostname);
  for (const s of [from, to]) {
    sockets.add(s);
    s.on("close", () => sockets.delete(s)).on("error", () => {});
  }
  from.pipe(to).pipe(from);
});
await new Promise((done) => proxy.listen(0, "127.0.0.1", done));
const through = `ws://127.0.0.1:${proxy.address().port}/v1/ws`;
const cut = () => sockets.forEach((s) => s.destroy());

function open(more = {}) {
  const seen = { states: [], halts: [], errors: [] };
  const client = new Haltline({
    url: through, WebSocket, name: "test",
    onState: (s) => seen.states.push(s.state), onHalt: (h) => seen.halts.push(h), onError: (e) => seen.errors.push(e), ...more,
  });
  return { client, seen };
}

function watch(client, what) {
  const got = { events: [], gaps: [], live: 0, began: [], snaps: [], errors: [] };
  const sub = client.subscribe(what, {
    event: (e, at) => got.events.push({ ...e, at }), gap: (g) => got.gaps.push(g), live: () => (got.live += 1),
    began: (b) => got.began.push(b), snapshot: (items) => got.snaps.push(items), error: (e) => got.errors.push(e),
  });
  return [got, sub];
}

await check("the gateway ships the client and its types", async () => {
  equal(fetched.headers.get("content-type"), "text/javascript; charset=utf-8", "content type");
  const types = await (await fetch(`${env.HALTLINE_GATEWAY}/client/haltline.d.ts`)).text();
  truth(types.includes("export declare class Haltline"), "types");
});

await put(chain("jsclient"));

await check("events as they happen, and the end of a subscription", async () => {
  const { client, seen } = open();
  const [got, sub] = watch(client, { filter: { workflow: ["jsclient"] } });
  await until(() => got.live, "live");
  await run("jsclient");
  await until(() => got.events.length === 8, "eight events");
  complete(got.events);
  equal(got.events.map((e) => e.at.count), [1, 2, 3, 4, 5, 6, 7, 8], "counters");
  equal([client.state.state, client.welcome.role, seen.halts[0].state], ["open", "admin", "normal"], "state");
  sub.close();
  const [other] = watch(client, { filter: { workflow: ["jsclient"] } });
  await until(() => other.live, "live");
  await run("jsclient");
  await until(() => other.events.length === 8, "eight events");
  equal(got.events.length, 8, "events of the ended subscription");
  client.close();
  equal(client.state.state, "closed", "state");
});

await check("connections that break: resumed, every event once", async () => {
  const { client, seen } = open();
  const [got] = watch(client, { filter: { workflow: ["jsclient"] } });
  await until(() => got.live, "live");
  const ids = [];
  for (let i = 0; i < 6; i++) {
    cut();
    ids.push(await run("jsclient"));
  }
  await until(() => got.events.length >= 48, "48 events", 30000);
  for (const id of ids) complete(got.events.filter((e) => e.execution_id === id));
  equal([got.events.length, got.gaps.length], [48, 0], "events and gaps");
  truth(seen.states.includes("lost") && got.began.length > 1, "it was lost in between");
  truth(got.began.slice(1).every((b) => b.was_recovering && b.recovered), "every resume recovered");
  client.close();
});

await check("a snapshot, then what comes", async () => {
  const { client } = open();
  const [got] = watch(client, { filter: { workflow: ["jsclient"] }, from: { snapshot: true } });
  await until(() => got.live, "live");
  equal(got.snaps.length, 1, "snapshots");
  truth(got.snaps[0].length >= 8 && got.snaps[0].every((e) => e.workflow_id === "jsclient"), "items");
  const id = await run("jsclient");
  await until(() => got.events.length === 8, "eight events");
  truth(got.events.every((e) => e.execution_id === id), "only what is new");
  client.close();
});

await check("a place that is gone is told; a wrong filter is refused", async () => {
  const { client } = open();
  const [gone] = watch(client, { filter: { workflow: ["jsclient"] }, from: { cursor: "00000000.5.-" }, ifGap: "snapshot" });
  await until(() => gone.live, "live");
  equal([gone.gaps.length, gone.gaps[0].reason, gone.snaps.length], [1, "epoch", 1], "gap");
  const [bad] = watch(client, { filter: { nothing: ["x"] } });
  await until(() => bad.errors.length, "an error");
  equal([bad.errors[0].code, bad.errors[0].retry], ["bad_frame", false], "error");
  client.close();
});

await check("a halt from the nats CLI arrives, and the end of it", async () => {
  const { client, seen } = open();
  await until(() => seen.halts.length, "the flag");
  halt_by_nats();
  try {
    await until(() => seen.halts.at(-1).state === "halt" && seen.halts.at(-1).sure, "a halt");
  } finally {
    await http("PUT", "/v1/control/global", { state: "normal", reason: "over", by: "client" });
  }
  await until(() => seen.halts.at(-1).state === "normal", "normal");
  client.close();
});

await check("a gateway that is not there: lost, tried again, found", async () => {
  cut();
  await new Promise((done) => proxy.close(done));
  const port = new URL(through).port;
  const { client, seen } = open();
  const [got] = watch(client, { filter: { workflow: ["jsclient"] } });
  await until(() => seen.states.filter((s) => s === "lost").length >= 2, "lost twice", 20000);
  await new Promise((done) => proxy.listen(port, "127.0.0.1", done));
  await until(() => got.live, "live", 20000);
  client.close();
});

end();
