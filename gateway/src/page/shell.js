// What is around every view: connection, position and lag, banner, navigation, footer, login.

import { ask, me, onLogin, whoAmI } from "./api.js";
import { h, show } from "./dom.js";
import { connect, health, heard, lastHeard, link, now, on, tell } from "./state.js";
import { count, running, time } from "./text.js";

const $ = (id) => document.getElementById(id);
const VIEWS = [["", "Overview"], ["executions", "Executions"], ["workflows", "Workflows"], ["workers", "Workers"], ["risk", "Risk"], ["audit", "Audit"], ["events", "Events"]];
let told = false;

/** Messages of the log that are not in what is shown yet: null if that is not known. */
const lag = () => (heard() ? (health.body?.tail?.lag_messages ?? null) : null);

function connection() {
  const b = health.body;
  const live = heard() && b?.tail?.live !== false;
  const word = !heard() ? (link.state === "open" ? "not answering" : link.state === "connecting" && !link.everOpen ? "connecting" : "not connected") : live ? "live" : "log interrupted";
  const n = lag();
  show($("link"),
    h("span", { class: `pill ${live ? "good" : "bad"}`, id: "live" }, word),
    h("span", { id: "as-of", class: heard() ? "" : "frozen" }, link.asOf ? `as of ${time(link.asOf, now())}` : "", link.seq !== null ? ` #${count(link.seq)}` : ""),
    h("span", { id: "lag", class: n > 1000 ? "bad" : "" }, `lag ${n === null ? "unknown" : count(n)}`));
}

function banner() {
  document.body.classList.toggle("lost", !heard());
  if (heard() || (link.state === "connecting" && !link.everOpen && Date.now() - link.since < 3000)) {
    told = false;
    return show($("told"));
  }
  const why = link.late ? "it does not answer" : link.reason;
  const since = link.everOpen ? ` What is shown is as of ${time(lastHeard(), now())} UTC; times stand still.` : "";
  if (!told) console.info("the gateway is not heard", why);
  told = true;
  show($("told"), h("p", { id: "lost", class: "banner" }, h("strong", null, "UNKNOWN: "), `the gateway is not heard${why ? ` (${why})` : ""}.${since}`,
    link.state === "closed" ? [" ", h("button", { type: "button", class: "small", onclick: () => connect() }, "Connect")] : null));
}

/** Marks the view that is shown. */
export function navigation(view) {
  const own = { execution: "executions", workflow: "workflows" }[view] ?? view;
  show($("nav"), VIEWS.map(([id, name]) => h("a", { key: id, href: `#/${id}`, "aria-current": id === own ? "page" : null }, name)));
}

function foot() {
  const who = me.role ? `${me.name || "somebody"} (${me.role}${me.auth && me.verified ? "" : ", not verified"})` : "";
  show($("foot"),
    h("span", null, "Times are UTC."), who ? h("span", null, who) : null,
    me.auth ? h("button", { type: "button", class: "small", onclick: logout }, "Log out") : null,
    h("a", { href: "/docs" }, "REST interface"), h("a", { href: "/client/haltline.js" }, "haltline.js"));
}

async function logout() {
  await ask("POST", "/v1/logout", { body: {} });
  location.reload();
}

let asking = false;
function login(why) {
  if (asking) return;
  asking = true;
  tell("leave");
  const problem = h("p", { id: "login-problem", class: "note bad", role: "alert" }, why);
  show($("main"), h("form", {
    key: "login", id: "login", class: "card login",
    onsubmit: async (e) => {
      e.preventDefault();
      const field = $("token");
      const token = field.value;
      field.value = "";
      const answer = await ask("POST", "/v1/login", { body: { token } });
      if (!answer.ok) { problem.textContent = answer.error; return; }
      asking = false;
      await begin();
    },
  },
    h("h1", null, "Log in"),
    h("p", null, "With an API token or a JWT. It is kept in a cookie that scripts cannot read."),
    h("label", null, h("span", null, "Token"), h("input", { id: "token", type: "password", autocomplete: "current-password", spellcheck: "false", required: true })),
    problem, h("div", { class: "row end" }, h("button", { id: "login-send" }, "Log in"))));
  $("token").focus();
}

/** Asks who is there, and connects or asks for a login. */
export async function begin() {
  const answer = await whoAmI();
  if (answer.status === 401) return;
  foot();
  connect();
  tell("enter");
}

/** Begins. */
export function start() {
  onLogin((why) => login(why));
  on("login", () => whoAmI());
  for (const kind of ["link", "place", "health", "tick"]) on(kind, connection);
  on("link", banner);
  on("link", foot);
  setInterval(banner, 1000);
  connection();
  foot();
}

/** How long ago, standing still while nothing is heard. */
export const ago = (text) => running(now() - Date.parse(text));
