// ws and fetch (Node): REST and the event protocol as a dashboard's server would use them.

import WebSocket from "ws";
import { acting, chain, check, complete, end, env, equal, halt_by_nats, http, put, run, truth } from "./common.mjs";

class Socket {
  constructor(options = {}) {
    this.queue = [];
    this.waiting = null;
    this.closed = new Promise((done) => (this.close_seen = done));
    this.ws = new WebSocket(env.HALTLINE_WS, ["haltline.v1.json"], options);
    this.ws.on("message", (data) => this.put(JSON.parse(data)));
    this.ws.on("close", (code, reason) => this.close_seen({ code, reason: String(reason) }));
    this.opened = new Promise((done, broken) => {
      this.ws.on("open", done);
      this.ws.on("error", broken);
    });
  }
  put(frame) {
    this.queue.push(frame);
    this.waiting?.();
  }
  send(frame) {
    this.ws.send(JSON.stringify(frame));
  }
  async any() {
    const over = Date.now() + 15000;
    while (!this.queue.length) {
      if (Date.now() > over) throw new Error("no frame within 15 s");
      await new Promise((done) => {
        const timer = setTimeout(done, 200);
        this.waiting = () => { clearTimeout(timer); done(); };
      });
    }
    return this.queue.shift();
  }
  // The next frame of that kind; others are passed over.
  async next(kind, test = () => true) {
    for (;;) {
      const frame = await this.any();
      if (frame.t === kind && test(frame)) return frame;
    }
  }
  // All events up to `live`.
  async replayed() {
    const found = [];
    for (;;) {
      const frame = await this.any();
      if (frame.t === "live") return found;
      if (frame.t === "ev") found.push(frame);
    }
  }
  async events(n) {
    const found = [];
    while (found.length < n) found.push(await this.next("ev"));
    return found;
  }
  close() {
    this.ws.close();
    return this.closed;
  }
}

async function greeted() {
  const socket = new Socket();
  await socket.opened;
  socket.send({ t: "hello", v: 1, client: { name: "node" } });
  return [socket, await socket.next("welcome")];
}

async function subscribed(filter, from, id = "s") {
  const [socket] = await greeted();
  socket.send({ t: "sub", rid: 1, id, filter, from });
  const subd = await socket.next("subd");
  equal(subd.rid, 1, "rid");
  return socket;
}

// Only a test looks into a cursor.
const seq = (cursor) => Number(cursor.split(".")[1]);
const counters = (frames, id = "s") => frames.map((f) => f.s[id]);
let id;

await check("REST: stores, runs and reads", async () => {
  const first = await http("PUT", "/v1/workflows/node", chain("node"));
  equal([first.status, first.body.new], [201, true], "a new version");
  equal((await http("PUT", "/v1/workflows/node", chain("node"))).status, 200, "the same again");
  id = await run("node");
  const record = (await http("GET", `/v1/executions/${id}`)).body;
  equal([record.status, record.nodes_completed, "key" in record], ["completed", 3, false], "record");
  const events = (await http("GET", `/v1/executions/${id}/events`)).body;
  complete(events.events);
  const listed = (await http("GET", "/v1/executions?workflow_id=node")).body.executions.map((e) => e.execution_id);
  truth(listed.includes(id), `the list has ${listed}`);
});

await check("REST: the same Idempotency-Key gives the same execution", async () => {
  const submit = async () => {
    const response = await fetch(`${env.HALTLINE_GATEWAY}/v1/executions`, {
      method: "POST", body: '{"workflow_id":"node"}', headers: { "content-type": "application/json", "idempotency-key": "k-1" },
    });
    return [response.status, await response.json(), response.headers.get("location")];
  };
  const [[status, a, location], [, b]] = [await submit(), await submit()];
  equal(status, 202, "status");
  equal([b.execution_id, b.repeated], [a.execution_id, true], "the repeat");
  equal(location, `/v1/executions/${a.execution_id}`, "Location");
});

await check("REST: errors are problem+json with a code and a field", async () => {
  const bad = await http("PUT", "/v1/workflows/bad", { id: "bad", version: "1", nodes: [{ id: "a", type: "nothing" }] });
  equal([bad.status, bad.body.code, bad.body.field], [422, "Invalid", "nodes[0].type"], "an unknown type");
  equal(bad.headers.get("content-type"), "application/problem+json", "content type");
  const none = await http("GET", "/v1/executions/exec_none_00000000");
  equal([none.status, none.body.code], [404, "UnknownExecution"], "an unknown execution");
});

await check("hello and welcome", async () => {
  const [socket, welcome] = await greeted();
  equal([socket.ws.protocol, welcome.v, welcome.halt.state], ["haltline.v1.json", 1, "normal"], "welcome");
  truth(seq(welcome.head) > 0, "head");
  truth(seq(welcome.oldest) <= seq(welcome.head) && welcome.role === "admin" && welcome.limits.subs === 128, "welcome");
  await socket.close();
});

await check("a page of another origin is refused", async () => {
  const socket = new Socket({ origin: "https://elsewhere.example" });
  const why = await socket.opened.then(() => "it was let in", (e) => e.message);
  truth(why.includes("403"), why);
});

await check("sub from a sequence with a filter: all events of a run, counters without holes", async () => {
  const socket = await subscribed({ execution: [id] }, { seq: 1 });
  const frames = await socket.events(8);
  complete(frames.map((f) => f.d));
  equal(counters(frames), [1, 2, 3, 4, 5, 6, 7, 8], "counters");
  await socket.next("live");
  await socket.close();
});

await check("sub with the last N", async () => {
  const socket = await subscribed({ execution: [id], type: ["node_*"] }, { last: 2 });
  // What was stored together comes together: at least two.
  const frames = (await socket.replayed()).slice(-2);
  equal(frames.map((f) => [f.d.type, f.d.node_id]), [["node_started", "n3"], ["node_completed", "n3"]], "events");
  await socket.close();
});

await check("sub live: a run's events as they happen, and nobody else's", async () => {
  await put(chain("other"));
  const socket = await subscribed({ workflow: ["node"] }, { live: true });
  await socket.next("live");
  const [, now] = await Promise.all([run("other"), run("node")]);
  const frames = await socket.events(8);
  equal([...new Set(frames.map((f) => f.d.execution_id))], [now], "executions");
  complete(frames.map((f) => f.d));
  equal(counters(frames), [1, 2, 3, 4, 5, 6, 7, 8], "counters");
  await socket.close();
});

await check("resume behind a cursor: nothing twice, nothing missing", async () => {
  const first = await subscribed({ execution: [id] }, { seq: 1 });
  const before = await first.events(3);
  await first.close();
  const second = await subscribed({ execution: [id] }, { cursor: before.at(-1).c });
  const after = await second.replayed();
  // Events that were stored together come again together: those that were seen are dropped by id.
  const seen = new Set(before.map((f) => f.d.id));
  complete([...before, ...after.filter((f) => !seen.has(f.d.id))].map((f) => f.d));
  equal(counters(after), after.map((_, i) => i + 1), "counters of the new subscription");
  await second.close();
  const third = await subscribed({ execution: [id] }, { seq: seq(before.at(-1).c) + 1 });
  equal((await third.replayed()).map((f) => f.d.id), after.map((f) => f.d.id), "the same by sequence");
  await third.close();
});

await check("sub since a time, and with a nested filter", async () => {
  const began = (await http("GET", `/v1/executions/${id}`)).body.started_at;
  const filter = { and: [{ execution: [{ prefix: id.slice(0, -2) }] }, { not: { type: ["*_started"] } }], or: [{ node: ["n1", "n2"] }, { type: ["execution_*"] }] };
  const socket = await subscribed(filter, { since: began });
  const types = (await socket.events(3)).map((f) => f.d.type);
  equal(types, ["node_completed", "node_completed", "execution_completed"], "types");
  await socket.close();
});

await check("a snapshot: the run with its nodes, then what comes", async () => {
  const socket = await subscribed({ execution: [id] }, { snapshot: true });
  const snap = await socket.next("snap");
  equal([snap.last, snap.items.length, snap.items[0].status], [true, 1, "completed"], "snapshot");
  equal(Object.values(snap.items[0].nodes).map((n) => n.status), ["completed", "completed", "completed"], "nodes");
  await socket.next("live");
  await socket.close();
  const all = await subscribed({ workflow: ["node"] }, { snapshot: true }, "all");
  truth((await all.next("snap")).items.some((e) => e.execution_id === id), "the list has the run");
  const now = await run("node");
  complete((await all.events(8)).map((f) => f.d));
  equal((await http("GET", `/v1/executions/${now}`)).body.status, "completed", "status");
  await all.close();
});

await check("filters and places that are wrong are refused, the connection goes on", async () => {
  const [socket] = await greeted();
  const wrong = [
    [{ filter: { worklow: ["x"] } }, "bad_frame"], [{ filter: { type: ["*a*b*c*d*"] } }, "bad_filter"],
    [{ from: { last: 1001 } }, "bad_from"], [{ from: { cursor: "e7.1" } }, "bad_frame"], [{ id: "a b" }, "bad_id"],
  ];
  for (const [more, code] of wrong) {
    socket.send({ t: "sub", rid: 5, id: "w", ...more });
    const err = await socket.next("err");
    equal([err.rid, err.code], [5, code], JSON.stringify(more));
  }
  socket.send({ t: "auth", rid: 6, token: "t" });
  const bad = await socket.next("err");
  equal([bad.rid, bad.code], [6, "bad_token"], "a token that is none");
  await socket.close();
});

await check("an event for two subscriptions is sent once, with a counter for each", async () => {
  const socket = await subscribed({ workflow: ["node"] }, { live: true }, "a");
  socket.send({ t: "sub", rid: 2, id: "b", filter: { type: ["node_completed"], bot: ["bot-node"] }, from: { live: true } });
  await socket.next("live", (f) => f.id === "b");
  await run("node");
  const frames = await socket.events(8);
  equal(counters(frames, "a"), [1, 2, 3, 4, 5, 6, 7, 8], "counters of a");
  equal(counters(frames, "b").filter(Boolean), [1, 2, 3], "counters of b");
  await socket.close();
});

await check("a place beyond the log is told as a gap", async () => {
  const [first, welcome] = await greeted();
  await first.close();
  const [epoch] = welcome.head.split(".");
  const socket = await subscribed({}, { cursor: `${epoch}.999999999.-` });
  const gap = await socket.next("gap");
  equal([gap.reason, gap.lost], ["epoch", null], "gap");
  await socket.close();
  // A cursor of a message that is not there: the stream was restored, or another one.
  const wrong = await subscribed({ execution: [id] }, { cursor: `${epoch}.${seq(welcome.head)}.000000` });
  equal((await wrong.next("gap")).reason, "epoch", "reason");
  complete((await wrong.events(8)).map((f) => f.d));
  await wrong.close();
  const [third] = await greeted();
  third.send({ t: "sub", rid: 9, id: "r", from: { cursor: `${epoch}.999999999.-` }, if_gap: "reject" });
  const err = await third.next("err");
  equal([err.rid, err.code, err.gap.reason], [9, "gap", "epoch"], "refusal");
  await third.close();
});

await check("a halt from the nats CLI arrives; REST refuses with 423; then it is over", async () => {
  const [socket, welcome] = await greeted();
  await put(acting("node-acts"));
  halt_by_nats();
  let halted;
  try {
    halted = await socket.next("halt", (f) => f.rev > welcome.halt.rev);
    equal([halted.state, halted.sure], ["halt", true], "frame");
    const told = await socket.next("halt", (f) => f.rev === halted.rev && f.workers?.complete);
    equal([told.workers.confirmed, told.workers.total, told.workers.open], [1, 1, 0], "workers");
    const refused = await http("POST", "/v1/executions", { workflow_id: "node-acts", input: { market: "http://127.0.0.1:9" } });
    equal([refused.status, refused.body.code, refused.body.revision], [423, "EmergencyHalted", halted.rev], "a submission");
  } finally {
    const answer = await http("PUT", "/v1/control/global", { state: "normal", reason: "over", by: "node" });
    equal([answer.status, answer.body.state], [200, "normal"], "resume");
  }
  equal((await socket.next("halt", (f) => f.rev > halted.rev)).state, "normal", "frame");
  await run("node");
  await socket.close();
});

await check("what is no frame ends the connection for good", async () => {
  const [socket] = await greeted();
  socket.ws.send("not JSON");
  equal((await socket.closed).code, 4509, "close code");
});

end();
