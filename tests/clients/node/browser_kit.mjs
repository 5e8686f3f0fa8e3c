// What the parts that drive a browser share: a gateway to kill, a browser that reaches nothing but loopback,
// pictures, and a look by axe.

import { spawn } from "node:child_process";
import { mkdirSync, readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { chromium } from "playwright-core";
import { env, until } from "./common.mjs";

/** A gateway of its own: `{ child, base }`. */
export async function gateway(port, more = []) {
  const child = spawn(env.HALTLINE_BIN, ["gateway", "--port", String(port), "--json", ...more], { stdio: ["ignore", "pipe", "ignore"] });
  let text = "";
  child.stdout.on("data", (d) => (text += d));
  const ready = await until(() => (text.includes("\n") || child.exitCode !== null) && text, "the gateway's address", 30000);
  return { child, base: JSON.parse(ready.split("\n")[0]).gateway };
}

/** Kills it as `kill -9` does. */
export async function kill(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise((done) => child.once("exit", done));
  child.kill("SIGKILL");
  await ended;
}

/** A browser for which no name but loopback resolves. */
export const browse = () => chromium.launch({
  executablePath: env.HALTLINE_CHROMIUM,
  args: [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
  ],
});

/** A page, and what went wrong on it: errors of console and scripts, requests to elsewhere. */
export async function open(browser, base) {
  const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
  const told = { errors: [], foreign: [], down: false };
  page.on("console", (m) => {
    // Refused connections are what a browser has to say about a gateway that was killed.
    if (m.type() === "error" && !(told.down && /ERR_CONNECTION_REFUSED|ERR_CONNECTION_RESET|ERR_EMPTY_RESPONSE/.test(m.text()))) told.errors.push(m.text());
  });
  page.on("pageerror", (e) => told.errors.push(e.stack ?? e.message));
  page.on("request", (r) => { if (!r.url().startsWith(base) && !r.url().startsWith("data:")) told.foreign.push(r.url()); });
  await page.addInitScript(() => document.addEventListener("securitypolicyviolation", (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`)));
  return { page, told };
}

const AXE = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const SIZES = { wide: [1280, 900], phone: [390, 844] };

/** Looks at the page in both themes, wide and on a phone: what axe finds and what sticks out; with pictures if they are wanted. */
export async function look(page, name) {
  const found = [];
  for (const [size, [width, height]] of Object.entries(SIZES)) {
    await page.setViewportSize({ width, height });
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme });
      // By the debugger: a script element would be refused by the page's policy.
      await page.evaluate(`${AXE};0`);
      const { violations } = await page.evaluate(() => globalThis.axe.run(document, { resultTypes: ["violations"] }));
      for (const v of violations) found.push(`${name} ${size} ${colorScheme}: ${v.id}: ${v.nodes[0].html.slice(0, 120)}`);
      const over = await page.evaluate(() => document.documentElement.scrollWidth - innerWidth);
      if (over > 0) found.push(`${name} ${size}: ${over} pixels stick out`);
      if (env.HALTLINE_SCREENSHOTS) {
        mkdirSync(env.HALTLINE_SCREENSHOTS, { recursive: true });
        await page.screenshot({ path: `${env.HALTLINE_SCREENSHOTS}/${name}-${size}-${colorScheme}.png` });
      }
    }
  }
  await page.emulateMedia({ colorScheme: null });
  await page.setViewportSize({ width: 1280, height: 900 });
  return found;
}
