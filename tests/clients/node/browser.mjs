// The page in a real browser: what it shows is what is stored, and it says so when it does not know.

import { spawn } from "node:child_process";
import { mkdirSync } from "node:fs";
import { chromium } from "playwright-core";
import { chain, check, end, env, equal, halt_by_nats, http, put, sleep, truth, until } from "./common.mjs";

// A gateway of its own, since it has to be killed.
async function gateway(port) {
  const child = spawn(env.HALTLINE_BIN, ["gateway", "--port", String(port), "--json"], { stdio: ["ignore", "pipe", "ignore"] });
  let text = "";
  child.stdout.on("data", (d) => (text += d));
  const ready = await until(() => (text.includes("\n") || child.exitCode !== null) && text, "the gateway's address", 30000);
  return { child, base: JSON.parse(ready.split("\n")[0]).gateway };
}

async function kill(child) {
  const ended = new Promise((done) => child.once("exit", done));
  child.kill("SIGKILL");
  await ended;
}

let { child, base } = await gateway(0);
const port = Number(new URL(base).port);
const errors = [];
const foreign = [];
let killed = false;
let browser;

try {
  browser = await chromium.launch({
    executablePath: env.HALTLINE_CHROMIUM,
    args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
  });
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  page.on("console", (m) => {
    // Refused connections are what the browser has to say about a gateway that was killed.
    if (m.type() === "error" && !(killed && m.text().includes("ERR_CONNECTION_REFUSED"))) errors.push(m.text());
  });
  page.on("pageerror", (e) => errors.push(e.message));
  page.on("request", (r) => { if (!r.url().startsWith(base) && !r.url().startsWith("data:")) foreign.push(r.url()); });

  const text = (selector) => page.locator(selector).textContent();
  const state = (wanted) => until(async () => (await text("#state")) === wanted, `state ${wanted}`);
  const row = (id) => page.locator("#runs tr", { hasText: id });

  async function pictures(name) {
    if (!env.HALTLINE_SCREENSHOTS) return;
    mkdirSync(env.HALTLINE_SCREENSHOTS, { recursive: true });
    for (const [size, width, height] of [["wide", 1280, 900], ["phone", 390, 844]]) {
      await page.setViewportSize({ width, height });
      for (const colorScheme of ["light", "dark"]) {
        await page.emulateMedia({ colorScheme });
        await page.screenshot({ path: `${env.HALTLINE_SCREENSHOTS}/${name}-${size}-${colorScheme}.png`, fullPage: size === "phone" && name === "normal" });
      }
    }
    await page.emulateMedia({ colorScheme: null });
    await page.setViewportSize({ width: 1280, height: 900 });
  }

  await check("the page opens and is live", async () => {
    await page.goto(base);
    await until(async () => (await text("#link")) === "live", "live");
    await state("NORMAL");
    truth(await page.locator("#lost").isHidden(), "the banner is shown");
  });

  await check("a run shows while it goes on, and its end", async () => {
    await put(chain("page-run", "sleep"));
    const id = (await http("POST", "/v1/executions", { workflow_id: "page-run" })).body.execution_id;
    await until(async () => (await row(id).count()) === 1 && (await row(id).textContent()).includes("running"), "the run as running");
    await row(id).locator("button").click();
    await until(async () => (await page.locator("#nodes tr", { hasText: "n1" }).count()) === 1, "its first node");
    await until(async () => (await row(id).textContent()).includes("completed"), "its end");
    await until(async () => (await page.locator("#nodes tr", { hasText: "completed" }).count()) === 3, "three completed nodes");
    const log = await text("#log");
    truth(log.includes(`${id}/ended`), "the end is not among the events");
  });

  await check("text of users is text, not markup", async () => {
    const bot_id = "<img src=x onerror=document.title='owned'>";
    const id = (await http("POST", "/v1/executions", { workflow_id: "page-run", bot_id })).body.execution_id;
    await until(async () => (await row(id).count()) === 1, "the run");
    truth((await row(id).textContent()).includes(bot_id), "the bot's id is not shown as it is");
    equal(await page.locator("#runs img").count(), 0, "images");
    equal(await page.title(), "Haltline", "title");
  });

  await pictures("normal");

  await check("halting wants a reason", async () => {
    const before = (await http("GET", "/v1/control/global")).body.revision;
    await page.locator("#halt").click();
    await sleep(500);
    equal((await http("GET", "/v1/control/global")).body.revision, before, "revision");
    await state("NORMAL");
  });

  await check("a halt is shown once it is stored, not before", async () => {
    let stored = 0;
    await page.route("**/v1/control/global", async (route) => {
      await sleep(1000); // on its way to the gateway
      stored = Date.now();
      await route.continue();
    });
    await page.locator("#halt-reason").fill("the browser test");
    const asked = Date.now();
    await page.locator("#halt").click();
    await until(async () => {
      const now = await text("#state");
      truth(now !== "HALT" || stored, "HALT was shown before the request reached the gateway");
      return now === "HALT";
    }, "HALT");
    truth(stored - asked >= 900, "the request was not delayed");
    await page.unroute("**/v1/control/global");
    const flag = (await http("GET", "/v1/control/global")).body;
    equal([flag.state, flag.reason], ["halt", "the browser test"], "what is stored");
    equal(await text("#why"), "Reason: the browser test", "the reason on the page");
    equal((await http("POST", "/v1/executions", { workflow_id: "page-run" })).status, 423, "a submission");
    await until(async () => (await text("#confirmed")).includes("1 of 1"), "the worker's confirmation");
  });

  await pictures("halted");

  await check("resuming wants a reason and the typed phrase", async () => {
    await page.locator("#resume-reason").fill("over");
    await page.locator("#resume-phrase").fill("resume");
    await page.locator("#resume").click();
    await sleep(300);
    equal((await http("GET", "/v1/control/global")).body.state, "halt", "state");
    await page.locator("#resume-phrase").fill("RESUME");
    await page.locator("#resume").click();
    await state("NORMAL");
  });

  await check("a halt from the nats CLI shows without a reload", async () => {
    halt_by_nats();
    await state("HALT");
    await http("PUT", "/v1/control/global", { state: "normal", reason: "over", by: "browser test" });
    await state("NORMAL");
  });

  await check("no errors on the console and no requests elsewhere", async () => {
    equal(errors, [], "errors");
    equal(foreign, [], "requests");
  });

  await check("a killed gateway: the page says UNKNOWN", async () => {
    killed = true;
    await kill(child);
    await until(() => page.locator("#lost").isVisible(), "the banner");
    truth((await text("#lost")).includes("UNKNOWN"), "the banner does not say UNKNOWN");
    await state("UNKNOWN");
  });

  await pictures("unknown");

  await check("the gateway comes back: the page goes on by itself", async () => {
    ({ child } = await gateway(port));
    await until(() => page.locator("#lost").isHidden(), "the banner is gone", 30000);
    await state("NORMAL");
    await until(async () => (await text("#link")) === "live", "live");
    const id = (await http("POST", "/v1/executions", { workflow_id: "page-run" })).body.execution_id;
    await until(async () => (await row(id).count()) === 1, "a new run");
    equal(errors, [], "errors");
  });
} finally {
  await browser?.close();
  if (child.exitCode === null && child.signalCode === null) await kill(child);
}
end();
