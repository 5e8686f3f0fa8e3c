// socket.io-client (npm): a dashboard of the replaced server against the gateway.

import { io } from "socket.io-client";
import { chain, check, complete, end, env, equal, halt_by_nats, http, put, run, truth, until } from "./common.mjs";

function opened(options = {}) {
  const socket = io(env.HALTLINE_GATEWAY, { forceNew: true, reconnection: false, ...options });
  const seen = { events: [], recent: [], order: [], errors: [], flags: [] };
  socket.on("workflow_event", (e) => seen.events.push(e));
  socket.on("recent_events", (r) => seen.recent.push(r));
  socket.on("error", (e) => seen.errors.push(e));
  socket.on("emergency_state", (f) => seen.flags.push(f));
  socket.onAny((name) => seen.order.push(name));
  const next = (name) => new Promise((done, late) => {
    const timer = setTimeout(() => late(new Error(`no ${name} within 15 s; seen ${seen.order}`)), 15000);
    socket.once(name, (data) => { clearTimeout(timer); done(data); });
  });
  return { socket, seen, next, hello: next("connected") };
}

await put(chain("sio"));
await run("sio");

for (const transport of ["websocket", "polling"]) {
  await check(`${transport}: connected, recent events before subscribed, then events as they happen`, async () => {
    const { socket, seen, next, hello } = opened({ transports: [transport] });
    const connected = await hello;
    truth(connected.sid && connected.message && connected.server_time && connected.auth_required === false, JSON.stringify(connected));
    const subscribed = next("subscribed");
    socket.emit("subscribe_workflow", { workflow_id: "sio" });
    const told = await subscribed;
    equal([told.type, told.workflow_id, told.workflowId], ["workflow", "sio", "sio"], "subscribed");
    equal(seen.order.filter((n) => ["recent_events", "subscribed", "workflow_event"].includes(n)), ["recent_events", "subscribed"], "order");
    const [recent] = seen.recent;
    truth(recent.count >= 8 && recent.count === recent.events.length && recent.count <= 100, "recent events");
    complete(recent.events.slice(-8));
    const id = await run("sio");
    await until(() => seen.events.length === 8, "eight events");
    complete(seen.events);
    truth(seen.events.every((e) => e.execution_id === id && e.bot_id === "bot-sio" && /^[0-9a-f]{8}\./.test(e._cursor)), "fields");
    socket.close();
  });
}

await check("camelCase keys; unsubscribe ends it; nobody else's events come", async () => {
  await put(chain("sio-other"));
  const { socket, seen, next, hello } = opened({ transports: ["websocket"] });
  await hello;
  let answer = next("subscribed");
  socket.emit("subscribe_bot", { botId: "bot-sio" });
  equal((await answer).bot_id, "bot-sio", "subscribed");
  await run("sio-other");
  const id = await run("sio");
  await until(() => seen.events.length >= 8, "events");
  equal([...new Set(seen.events.map((e) => e.execution_id))], [id], "executions");
  complete(seen.events);
  answer = next("unsubscribed");
  socket.emit("unsubscribe", { type: "bot", bot_id: "bot-sio" });
  equal((await answer).type, "bot", "unsubscribed");
  // Another subscription goes on behind it: had the first stayed, its events would come before.
  answer = next("subscribed");
  socket.emit("subscribe_workflow", { workflowId: "sio-other" });
  await answer;
  await run("sio");
  const other = await run("sio-other");
  await until(() => seen.events.length >= 16, "events of the other one");
  equal([...new Set(seen.events.slice(8).map((e) => e.execution_id))], [other], "executions after it");
  socket.close();
});

await check("an event for two subscriptions comes once; all bots gets everything", async () => {
  const { socket, seen, next, hello } = opened({ transports: ["websocket"] });
  await hello;
  for (const [name, data] of [["subscribe_workflow", { workflow_id: "sio" }], ["subscribe_all_bots", {}], ["subscribe_strategy", { strategy_id: "none" }]]) {
    const answer = next("subscribed");
    socket.emit(name, data);
    await answer;
  }
  const ids = [await run("sio"), await run("sio-other")];
  await until(() => seen.events.length >= 16, "events");
  equal(seen.events.length, 16, "events");
  equal(seen.events.map((e) => e.execution_id).filter((id, i, all) => all.indexOf(id) === i), ids, "executions");
  socket.close();
});

await check("request_state, request_stats, authenticate, and what is wrong", async () => {
  const { socket, seen, next, hello } = opened({ transports: ["websocket"] });
  await hello;
  let answer = next("state_response");
  socket.emit("request_state", { type: "workflow", id: "sio" });
  const state = await answer;
  equal([state.type, state.id, state.state.latest.status], ["workflow", "sio", "completed"], "state");
  answer = next("stats_update");
  socket.emit("request_stats");
  truth((await answer).connected_clients >= 1, "stats");
  answer = next("auth_response");
  socket.emit("authenticate", { token: "whatever" });
  equal((await answer).success, false, "a token that is none");
  answer = next("auth_response");
  socket.emit("authenticate", {});
  equal((await answer).success, true, "authenticated where nobody needs a token");
  for (const [name, data, part] of [["subscribe_bot", {}, "bot_id"], ["subscribe_bot", "x", "bot_id"], ["nonsense", {}, "nonsense"], ["unsubscribe", { type: "x" }, "type"], ["subscribe_workflow", { workflow_id: "x".repeat(300) }, "256"]]) {
    answer = next("error");
    socket.emit(name, data);
    truth((await answer).message.includes(part), `${name}: ${JSON.stringify(seen.errors)}`);
  }
  socket.close();
});

await check("a page of another origin is refused", async () => {
  for (const transport of ["websocket", "polling"]) {
    const socket = io(env.HALTLINE_GATEWAY, { forceNew: true, reconnection: false, transports: [transport], extraHeaders: { origin: "https://elsewhere.example" } });
    const why = await new Promise((done) => { socket.on("connect", () => done("let in")); socket.on("connect_error", (e) => done(`refused ${e.message}`)); });
    truth(why.startsWith("refused"), `${transport}: ${why}`);
    socket.close();
  }
});

await check("a halt from the nats CLI arrives, and the end of it", async () => {
  const { socket, seen, hello } = opened({ transports: ["websocket"] });
  await hello;
  await until(() => seen.flags.some((f) => f.state === "normal"), "the flag");
  halt_by_nats();
  try {
    await until(() => seen.flags.at(-1).state === "halt", "a halt");
  } finally {
    await http("PUT", "/v1/control/global", { state: "normal", reason: "over", by: "socketio" });
  }
  await until(() => seen.flags.at(-1).state === "normal", "normal");
  socket.close();
});

end();
