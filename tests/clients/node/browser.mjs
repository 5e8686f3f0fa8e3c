// The dashboard in a real browser: what it shows is what is stored, and it says so when it does not know.

import { spawn, spawnSync } from "node:child_process";
import { gzipSync } from "node:zlib";
import { browse, gateway, kill, look, open } from "./browser_kit.mjs";
import { chain, check, end, env, equal, halt_by_nats, http, put, sleep, truth, until } from "./common.mjs";

const SIZE_MAX = 200_000; // bytes of gzip, all files of the page together
let { child, base } = await gateway(0);
const port = Number(new URL(base).port);
const browser = await browse();
let silent = null;

const nap = (id, duration, depends_on) => ({ id, type: "sleep", params: { duration }, depends_on });
const give = (id, depends_on, outputs = { x: "1" }) => ({ id, type: "static", params: { outputs }, depends_on });
const DIAMOND = { id: "page-diamond", version: "1", name: "A diamond", bot_id: "bot-page", nodes: [nap("top", "1s", []), nap("left", "500ms", ["top"]), nap("right", "2s", ["top"]), give("bottom", ["left", "right"], { price: "64250.10", large: "z".repeat(70_000) })] };
const ACTS = { id: "page-acts", version: "1", nodes: [{ id: "post", type: "http", params: { method: "POST" }, inputs: { url: { value: "http://127.0.0.1:1/" } } }] };
const SLOW = { id: "page-slow", version: "1", nodes: [nap("wait", "60s", []), give("after", ["wait"])] };

try {
  const { page, told } = await open(browser, base);
  const text = (selector) => page.locator(selector).textContent();
  const state = (wanted) => until(async () => (await text("#state")) === wanted, `state ${wanted}`, 15000);
  const go = (hash) => page.evaluate((h) => { location.hash = h; }, hash);
  const row = (id) => page.locator(`#runs tr[data-id="${id}"]`);
  const submit = async (workflow_id, more = {}) => (await http("POST", "/v1/executions", { workflow_id, ...more })).body.execution_id;
  const nodes = () => page.evaluate(() => Object.fromEntries([...document.querySelectorAll(".graph [data-node]")].map((n) => [n.dataset.node, n.dataset.status])));
  const flag = async () => (await http("GET", "/v1/control/global")).body;
  const clean = async (name) => equal(await look(page, name), [], "axe and overflow");
  for (const definition of [DIAMOND, SLOW, ACTS, chain("page-run")]) await put(definition);

  await check("the page opens, is live, and says as of when", async () => {
    await page.goto(base);
    await until(async () => (await text("#live")) === "live", "live");
    await state("NORMAL");
    truth(await page.locator("#lost").count() === 0, "the banner is shown");
    truth(/as of \d\d:\d\d:\d\d #\d/.test(await text("#as-of")), `as of: ${await text("#as-of")}`);
    await until(async () => (await text("#lag")) === "lag 0", "the lag");
    await clean("overview");
  });

  await check(`the page is small: under ${SIZE_MAX / 1000} KB in gzip`, async () => {
    const files = await page.evaluate(() => performance.getEntriesByType("resource").filter((r) => /\.(js|css)$/.test(r.name)).map((r) => r.name));
    let [plain, packed] = [0, 0];
    for (const file of [base, ...new Set(files)]) {
      const answer = await fetch(file);
      equal(answer.status, 200, file);
      const bytes = Buffer.from(await answer.arrayBuffer());
      plain += bytes.length;
      packed += gzipSync(bytes).length;
    }
    console.log(`${files.length + 1} files, ${(plain / 1000).toFixed(1)} KB, ${(packed / 1000).toFixed(1)} KB in gzip`);
    truth(files.length > 20 && packed < SIZE_MAX, `${packed} bytes in ${files.length} files`);
  });

  let run;
  await check("dashboard: draws a straight chain instead of the edges: a diamond is drawn as one, with nodes that wait", async () => {
    await go("#/executions");
    run = await submit("page-diamond");
    await row(run).waitFor();
    await row(run).locator("a").first().click();
    await page.locator(".graph svg").waitFor();
    const first = await nodes();
    truth(Object.values(first).includes("pending"), `no node waits: ${JSON.stringify(first)}`);
    const edges = await page.evaluate(() => [...document.querySelectorAll(".graph path[data-from]")].map((e) => `${e.dataset.from}>${e.dataset.to}`).sort());
    equal(edges, ["left>bottom", "right>bottom", "top>left", "top>right"], "edges");
    const at = Object.fromEntries(await page.evaluate(() => [...document.querySelectorAll(".graph [data-node]")].map((n) => [n.dataset.node, n.getAttribute("transform").match(/[\d.]+/g).map(Number)])));
    equal(at.left[0], at.right[0], "x of the two in the middle");
    truth(at.left[1] !== at.right[1] && at.top[0] < at.left[0] && at.left[0] < at.bottom[0], `places: ${JSON.stringify(at)}`);
  });

  await check("dashboard: folds events newest first so finished nodes show running: node by node, to the end", async () => {
    const seen = new Set();
    await until(async () => {
      const all = await nodes();
      for (const [node, status] of Object.entries(all)) seen.add(`${node} ${status}`);
      return Object.values(all).every((s) => s === "completed");
    }, "four completed nodes");
    truth(seen.has("right running") && seen.has("left completed"), `seen: ${[...seen]}`);
    truth((await text("#node, .facts")).includes("completed"), "the status");
    await page.reload();
    await until(async () => Object.values(await nodes()).filter((s) => s === "completed").length === 4, "four completed nodes after a reload");
    equal(await page.locator("#events tbody tr").count(), 10, "events");
    const waited = await page.locator('#nodes tr[data-node="bottom"] .num').nth(1).textContent();
    truth(/ms|s/.test(waited), `how long the last node waited: ${waited}`);
    await clean("execution");
  });

  await check("a payload opens, its size is said, what is large is cut", async () => {
    await page.locator('.graph [data-node="bottom"]').focus();
    await page.keyboard.press("Enter");
    await page.locator('#node button[data-payload="output"]').click();
    const panel = page.locator('#node .payload');
    await panel.waitFor();
    truth(/70\.\d KB, only the beginning is shown/.test(await panel.textContent()), `said: ${(await panel.textContent()).slice(0, 120)}`);
    await panel.locator("button", { hasText: "Read up to" }).click();
    await until(async () => (await panel.textContent()).includes("64250.10"), "all of it");
    truth(page.url().includes("node=bottom"), "the node is not in the address");
    await clean("node");
  });

  await check("filters are the gateway's, and in the address", async () => {
    await submit("page-run");
    await go("#/executions?workflow_id=page-diamond&status=completed");
    await row(run).waitFor();
    await until(async () => (await page.locator("#runs tbody tr").count()) === 1, "one row");
    await page.locator('input[name="workflow_id"]').fill("page-run");
    await page.locator("#apply").click();
    await until(() => page.url().includes("workflow_id=page-run"), "the address");
    await until(async () => (await page.locator("#runs").textContent()).includes("exec_page-run"), "the other workflow");
    await clean("executions");
  });

  await check("bulk cancel: looks first, wants a reason, and says what was stored", async () => {
    const ids = [await submit("page-slow"), await submit("page-slow")];
    await go("#/executions?workflow_id=page-slow&status=running");
    for (const id of ids) await row(id).waitFor();
    await page.locator("#cancel-open").click();
    await page.locator("#cancel-send", { hasText: "Cancel 2" }).waitFor();
    await clean("cancel");
    await page.locator('#cancel input[name="reason"]').fill("the browser test");
    await page.locator("#cancel-send").click();
    await until(async () => (await text("#cancel")).includes("Stored: 2 asked to end"), "what was stored");
    for (const id of ids) await until(async () => (await http("GET", `/v1/executions/${id}`)).body.status === "cancelled", "cancelled");
  });

  await check("text of users is text, not markup", async () => {
    const bot_id = "<img src=x onerror=document.title='owned'>";
    await go("#/executions");
    const id = await submit("page-run", { bot_id });
    await row(id).waitFor();
    truth((await row(id).textContent()).includes(bot_id), "the bot's id is not shown as it is");
    equal(await page.locator("main img").count(), 0, "images");
    truth(!(await page.title()).includes("owned"), "title");
  });

  for (const [name, hash, has] of [["workflow", "#/workflow/page-diamond", "#grid .cell.good"], ["workflows", "#/workflows", "table a"], ["workers", "#/workers", "tr[data-worker]"], ["risk", "#/risk", "table"], ["audit", "#/audit", "table"], ["events", "#/events", "#log details"]]) {
    await check(`the view ${name}`, async () => {
      await go(hash);
      await page.locator(has).first().waitFor();
      await sleep(300);
      await clean(name);
    });
  }

  await check("the view of events leaves none out", async () => {
    await go(`#/events?execution=${run}`);
    await until(async () => (await page.locator("#log tbody tr td:nth-child(3)").count()) === 10, "ten events");
    const kinds = (await page.locator("#log tbody tr td:nth-child(3)").allTextContents()).sort();
    equal(kinds, ["execution completed", "execution started", ...Array(4).fill("node completed"), ...Array(4).fill("node started")], "events");
  });

  await check("halting wants a reason", async () => {
    const before = (await flag()).revision;
    await page.locator("#halt-open").click();
    await page.locator("#halt-send").click();
    await sleep(500);
    equal((await flag()).revision, before, "revision");
    await clean("halting");
  });

  await check("dashboard: the halt button changes only the page: requested, stored, n of m confirmed, each when it is", async () => {
    silent = spawn(env.HALTLINE_BIN, ["worker", "--id", "silent-worker"], { stdio: "ignore" });
    await until(async () => (await http("GET", "/v1/workers")).body.workers.length === 2, "a second worker", 20000);
    silent.kill("SIGSTOP"); // it shows signs of life for ten seconds more, and confirms nothing
    let stored = 0;
    await page.route("**/v1/control/global/raise", async (route) => {
      await sleep(1000); // on its way to the gateway
      stored = Date.now();
      await route.continue();
    });
    // Each text of the step as it is shown: a silent worker's lease is over within about a second.
    await page.evaluate(() => {
      globalThis.stepsSeen = [];
      new MutationObserver(() => {
        const step = document.getElementById("step-confirmed");
        if (step) globalThis.stepsSeen.push([step.dataset.done, step.textContent]);
      }).observe(document.getElementById("dialog"), { subtree: true, childList: true, characterData: true, attributes: true });
    });
    await page.locator("#halt-reason").fill("the browser test");
    await page.locator("#halt-send").click();
    await page.locator("#step-requested").waitFor();
    equal([await page.locator("#step-stored").getAttribute("data-done"), await text("#state")], ["false", "NORMAL"], "before it is stored");
    await until(async () => {
      const now = await text("#state");
      truth(now !== "HALT" || stored, "HALT was shown before the request reached the gateway");
      return now === "HALT" && (await page.locator("#step-stored").getAttribute("data-done")) === "true";
    }, "HALT, stored");
    await page.unroute("**/v1/control/global/raise");
    const f = await flag();
    equal([f.state, f.reason], ["halt", "the browser test"], "what is stored");
    truth((await text("#step-stored")).includes(`revision ${f.revision}`), "the revision");
    equal((await http("POST", "/v1/executions", { workflow_id: "page-acts" })).status, 423, "a submission of what acts");
    await until(async () => (await page.locator("#step-confirmed").getAttribute("data-done")) === "true", "confirmed, or past the silent one's lease", 20000);
    const steps = await page.evaluate(() => globalThis.stepsSeen);
    const named = steps.findIndex(([done, says]) => done === "false" && /1 of 2 workers confirmed; silent: silent-worker/.test(says));
    const whole = steps.findIndex(([done]) => done === "true");
    truth(named >= 0 && named < whole, `confirmations as they were shown: ${JSON.stringify(steps)}`);
    await clean("halted");
    silent.kill("SIGCONT");
    truth((await text("#flags")).includes("the browser test"), "the reason on the page");
    await page.locator("#dialog-close").click();
    await clean("halt");
  });

  await check("resuming wants a reason and the typed phrase", async () => {
    await page.locator("#resume-open").click();
    await page.locator("#resume-reason").fill("over");
    await page.locator("#resume-phrase").fill("resume");
    await page.locator("#resume-send").click();
    await sleep(300);
    equal((await flag()).state, "halt", "state");
    await clean("resuming");
    await page.locator("#resume-phrase").fill("RESUME EVERYTHING");
    await page.locator("#resume-send").click();
    await state("NORMAL");
    await page.locator("#dialog-close").click();
  });

  await check("a halt from the nats CLI, and one of a bot, show without a reload", async () => {
    halt_by_nats();
    await state("HALT");
    await http("PUT", "/v1/control/global", { state: "normal", reason: "over", by: "browser test" });
    await state("NORMAL");
    await http("PUT", "/v1/control/bot:bot-page", { state: "halt", reason: "only this one", by: "browser test" });
    await page.locator('.flag[data-scope="bot:bot-page"]', { hasText: "only this one" }).waitFor();
    await http("PUT", "/v1/control/bot:bot-page", { state: "normal", reason: "over", by: "browser test" });
    await until(async () => (await page.locator(".flag").count()) === 0, "no flag");
  });

  await check("more than 2,000 nodes are not drawn without asking", async () => {
    await put({ id: "page-wide", version: "1", nodes: Array.from({ length: 2001 }, (_, i) => give(`n${i}`, [])) });
    await go("#/workflow/page-wide");
    await page.locator(".ask button").waitFor();
    equal(await page.locator(".graph").count(), 0, "graphs");
  });

  await check("no error, no violation of the page's policy, no request elsewhere", async () => equal([told.errors, told.foreign], [[], []], "told"));

  await check("dashboard: shows NORMAL when it does not know: a killed gateway, UNKNOWN and frozen timers", async () => {
    run = await submit("page-slow");
    await go(`#/execution/${run}`);
    await until(async () => (await nodes()).wait === "running", "a run that goes on");
    told.down = true;
    await kill(child);
    await until(async () => (await text("#state")) === "UNKNOWN" && (await page.locator("#lost").count()) === 1, "UNKNOWN and the banner");
    truth((await text("#lost")).includes("times stand still"), "the banner");
    const clock = () => text(".facts .frozen");
    const before = await clock();
    await sleep(2500);
    equal(await clock(), before, "how long it has run");
    await clean("unknown");
  });

  await check("the gateway comes back: the truth without a reload", async () => {
    await http("POST", `/v1/executions/${run}/cancel`, { reason: "while nobody looked", by: "browser test" });
    await until(async () => (await http("GET", `/v1/executions/${run}`)).body.status === "cancelled", "cancelled");
    ({ child } = await gateway(port));
    await state("NORMAL");
    await until(async () => (await page.locator("#lost").count()) === 0, "the banner is gone", 30000);
    await until(async () => (await text(".facts")).includes("cancelled"), "what happened meanwhile");
    equal(told.errors, [], "errors");
  });

  await check("log in: a wrong token is refused, a viewer looks and halts nothing, an admin may", async () => {
    const guarded = await gateway(0, ["--auth", "required"]);
    const token = (role) => JSON.parse(spawnSync(env.HALTLINE_BIN, ["tokens", "create", `page-${role}`, "--role", role, "--json"], { encoding: "utf8", timeout: 30000 }).stdout).token;
    try {
      const { page, told } = await open(browser, guarded.base);
      told.down = true; // the refusals are the browser's to tell
      const state = (wanted) => until(async () => (await page.locator("#state").textContent()) === wanted, `state ${wanted}`, 15000);
      const enter = async (secret) => { await page.locator("#token").fill(secret); await page.locator("#login-send").click(); };
      await page.goto(guarded.base);
      await page.locator("#login").waitFor();
      await state("UNKNOWN");
      equal(await look(page, "login"), [], "axe and overflow");
      await enter("hlt_no_such_token");
      await until(async () => (await page.locator("#login-problem").textContent()) !== "", "the refusal");
      await enter(token("viewer"));
      await state("NORMAL");
      await page.locator("#halt-open").click();
      truth(await page.locator("#halt-send").isDisabled(), "a viewer can halt");
      await page.keyboard.press("Escape");
      await page.locator("footer button", { hasText: "Log out" }).click();
      await page.locator("#login").waitFor();
      await enter(token("admin"));
      await state("NORMAL");
      await page.locator("#halt-open").click();
      truth(await page.locator("#halt-send").isEnabled(), "an admin cannot halt");
      equal(told.errors.filter((e) => !/\b401\b/.test(e)), [], "errors");
      await page.close();
    } finally {
      await kill(guarded.child);
    }
  });

  await check("a gateway that stands still is not taken for one that is well", async () => {
    child.kill("SIGSTOP");
    await state("UNKNOWN");
    truth((await text("#lost")).includes("does not answer"), "the banner");
    child.kill("SIGCONT");
    await state("NORMAL");
  });
} finally {
  if (silent) await kill(silent);
  await browser.close();
  await kill(child);
}
end();
