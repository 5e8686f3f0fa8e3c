// The parts of the dashboard that decide, as the gateway serves them: folding events, laying out graphs.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { check, end, env, equal, truth } from "./common.mjs";

const folder = mkdtempSync(join(tmpdir(), "haltline-page-"));
writeFileSync(join(folder, "package.json"), '{"type":"module"}');
for (const file of ["fold.js", "layout.js"]) writeFileSync(join(folder, file), await (await fetch(`${env.HALTLINE_GATEWAY}/ui/${file}`)).text());
const { Run, parents, spans, standing } = await import(pathToFileURL(join(folder, "fold.js")));
const { NODE_H, NODE_W, layout } = await import(pathToFileURL(join(folder, "layout.js")));
rmSync(folder, { recursive: true });

const at = (ms) => new Date(1_700_000_000_000 + ms).toISOString();
const event = (seq, type, node_id, ms, more = {}) => ({ id: `${seq}/${type}/${node_id ?? ""}/${more.attempt ?? 1}`, seq, type, node_id, timestamp: at(ms), ...more });
const started = (seq, node, ms, more) => event(seq, "node_started", node, ms, { attempt: 1, token: 10, ...more });
const done = (seq, node, ms, more) => event(seq, "node_completed", node, ms, { attempt: 1, token: 10, duration_ms: 5, ...more });
const diamond = { nodes: [{ id: "d", inputs: { l: { node: "b", output: "x" }, r: { node: "c", output: "x" } } }, { id: "b", depends_on: ["a"] }, { id: "c", depends_on: ["a"] }, { id: "a" }] };
const of = (run) => Object.fromEntries([...run.nodes].map(([id, n]) => [id, n.status]));

await check("dashboard: folds events newest first: whatever the order of arrival, finished nodes are finished", async () => {
  const events = [event(1, "execution_started", undefined, 0), started(2, "a", 10), done(3, "a", 15), started(4, "b", 20), started(5, "c", 21), done(6, "c", 30), done(7, "b", 40), event(8, "execution_completed", undefined, 60)];
  const want = { a: "completed", b: "completed", c: "completed" };
  for (let n = 0; n < 200; n++) {
    const mixed = n === 0 ? [...events].reverse() : [...events].map((e) => [Math.sin(n * e.seq * 77.7), e]).sort((x, y) => x[0] - y[0]).map(([, e]) => e);
    const run = new Run();
    for (const e of mixed) run.add([e]);
    run.add(events.slice(0, 4)); // told again
    equal([of(run), run.status, run.events.length], [want, "completed", 8], `order ${mixed.map((e) => e.seq)}`);
    equal(run.events.map((e) => e.seq), [1, 2, 3, 4, 5, 6, 7, 8], "their order");
  }
});

await check("a start that is told late, and a token that was taken over, count for nothing", async () => {
  const run = new Run();
  run.add([started(1, "a", 0), started(2, "a", 50, { token: 20, worker_id: "w2", attempt: 2 }), done(3, "a", 55, { token: 10, worker_id: "w1" })]);
  equal([of(run), run.nodes.get("a").worker], [{ a: "running" }, "w2"], "while the second runs");
  run.add([done(4, "a", 60, { token: 20, attempt: 2 }), started(5, "a", 70, { token: 20, attempt: 2 })]);
  equal([of(run), run.nodes.get("a").finished], [{ a: "completed" }, at(60)], "at the end");
});

await check("attempts stay apart, a failed one is not the node's end", async () => {
  const run = new Run();
  run.add([started(1, "a", 0), event(2, "node_retrying", "a", 10, { attempt: 1, token: 10, error: "no answer", error_type: "Timeout", retry_in_ms: 200, duration_ms: 9 })]);
  equal(of(run), { a: "retrying" }, "between");
  run.add([started(3, "a", 210, { attempt: 2 }), done(4, "a", 220, { attempt: 2 })]);
  const n = run.nodes.get("a");
  equal([n.status, n.error, n.attempts.map((a) => [a.number, a.status, a.error ?? null])], ["completed", null, [[1, "failed", "no answer"], [2, "completed", null]]], "at the end");
});

await check("a node that is read again runs and completes once more; the one that it is for waits", async () => {
  const run = new Run();
  const stale = event(4, "node_stale", "b", 30, { attempt: 1, token: 10, error: "too old", error_type: "StaleInput", read_again: ["a"] });
  run.add([started(1, "a", 0), done(2, "a", 10, { attempt: 1 }), stale]);
  equal(of(run), { a: "completed", b: "retrying" }, "before");
  run.add([started(5, "a", 40, { attempt: 2 })]);
  equal([of(run), run.nodes.get("a").finished], [{ a: "running", b: "retrying" }, null], "while it is read");
  run.add([done(6, "a", 50, { attempt: 2 }), started(7, "b", 60, { attempt: 2 }), done(8, "b", 70, { attempt: 2 })]);
  equal([of(run), run.nodes.get("a").finished, run.nodes.get("b").error], [{ a: "completed", b: "completed" }, at(50), null], "at the end");
});

await check("waits in the queue are apart from runs; what never began waited for nothing", async () => {
  const run = new Run();
  run.add([event(1, "execution_started", undefined, 0), started(2, "a", 10), done(3, "a", 15), started(4, "b", 40), started(5, "c", 20)]);
  const t = spans(diamond, run, at(0), Date.parse(at(100)));
  equal([t.get("a").wait, t.get("a").run, t.get("b").wait, t.get("b").run, t.get("d").wait], [10, 5, 25, 60, null], "while it runs");
  equal([standing(run, "d", false), standing(run, "d", true)], ["pending", "not_run"], "the last node");
  run.add([event(6, "execution_cancelled", undefined, 100, { status: "cancelled" })]);
  equal([spans(diamond, run, at(0), Date.parse(at(500))).get("b").run, run.status], [60, "cancelled"], "after the end time stands");
});

await check("dashboard: draws a straight chain: a diamond has two nodes side by side and four edges", async () => {
  equal(parents(diamond.nodes[0]), ["b", "c"], "what the last node needs");
  const { nodes, edges } = layout(diamond);
  equal(edges.map((e) => `${e.from}>${e.to}`).sort(), ["a>b", "a>c", "b>d", "c>d"], "edges");
  const [a, b, c, d] = ["a", "b", "c", "d"].map((id) => nodes.get(id));
  equal([b.x === c.x, a.x < b.x, c.x < d.x, Math.abs(a.y - (b.y + c.y) / 2) < 1, Math.abs(d.y - a.y) < 1], [true, true, true, true, true], "places");
});

await check("no two nodes overlap, every edge goes forward, in 300 drawn graphs", async () => {
  let seed = 7;
  const draw = (n) => { seed = (seed * 1103515245 + 12345) % 2147483648; return seed % n; };
  for (let g = 0; g < 300; g++) {
    const size = 1 + draw(40);
    const definition = { nodes: Array.from({ length: size }, (_, i) => ({ id: `n${i}`, depends_on: Array.from({ length: i ? draw(4) : 0 }, () => `n${draw(i)}`) })) };
    const { nodes, edges, width, height } = layout(definition);
    const all = [...nodes.values()];
    for (let i = 0; i < all.length; i++) {
      truth(all[i].x >= 0 && all[i].y >= 0 && all[i].x + NODE_W <= width && all[i].y + NODE_H <= height, `graph ${g}: node ${i} is outside`);
      for (let j = 0; j < i; j++) truth(Math.abs(all[i].x - all[j].x) >= NODE_W || Math.abs(all[i].y - all[j].y) >= NODE_H, `graph ${g}: ${i} and ${j} overlap`);
    }
    for (const e of edges) truth(e.points.every(([x], i) => i === 0 || x > e.points[i - 1][0]), `graph ${g}: ${e.from}>${e.to} goes back`);
  }
});

end();
