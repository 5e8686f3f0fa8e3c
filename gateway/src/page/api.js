// Requests to this page's own gateway, and who asks.

/** Who is logged in: `role` is null where the gateway does not say. */
export const me = { name: "", role: null, verified: false, auth: false, known: false };

/** How far the gateway's clock is ahead of this machine's, in milliseconds; 0 where that is less than the headers can tell. */
export let clockOff = 0;

let loggedOut = () => {};
/** What happens when the gateway wants a login. */
export const onLogin = (f) => { loggedOut = f; };

const RANKS = { viewer: 0, operator: 1, admin: 2 };
/** Whether a role is enough; where it is not known, the gateway decides. */
export const may = (role) => me.role === null || RANKS[me.role] >= RANKS[role];

/** Asks; never throws. `{ ok, status, body, error }`, `status` 0 if there was no answer. */
export async function ask(method, path, { body, headers = {}, timeout = 15000 } = {}) {
  const began = Date.now();
  try {
    const response = await fetch(path, {
      method, signal: AbortSignal.timeout(timeout), credentials: "same-origin",
      headers: body === undefined ? headers : { ...headers, "content-type": "application/json" },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    clock(response.headers.get("date"), began);
    const text = await response.text();
    let answer = null;
    try { answer = text ? JSON.parse(text) : null; } catch { answer = null; }
    if (response.status === 401 && path !== "/v1/login") loggedOut(answer?.detail ?? "");
    if (response.ok && answer !== null) return { ok: true, status: response.status, body: answer };
    return { ok: false, status: response.status, body: answer, error: answer?.detail ?? `${response.status} ${response.statusText}` };
  } catch (e) {
    const late = e.name === "TimeoutError";
    return { ok: false, status: 0, body: null, error: late ? `no answer within ${timeout / 1000} s` : "the gateway cannot be reached" };
  }
}

/** Reads. */
export const get = (path, options) => ask("GET", path, options);

/** A path out of parts and a query; lists repeat their name, what is empty is left out. */
export function address(parts, query = {}) {
  const q = new URLSearchParams();
  for (const [name, value] of Object.entries(query)) {
    for (const v of Array.isArray(value) ? value : [value]) if (v !== "" && v !== null && v !== undefined) q.append(name, v);
  }
  const text = q.toString();
  return `/v1/${parts.map(encodeURIComponent).join("/")}${text ? `?${text}` : ""}`;
}

// The header has whole seconds: less than two is nothing that can be told.
function clock(date, began) {
  const at = Date.parse(date ?? "");
  if (Number.isNaN(at)) return;
  const off = at + 500 - (began + Date.now()) / 2;
  clockOff = Math.abs(off) > 2000 ? off : 0;
}

/** Asks who is logged in. */
export async function whoAmI() {
  const answer = await get("/v1/me", { timeout: 8000 });
  if (answer.ok) {
    Object.assign(me, { name: answer.body.name ?? "", role: answer.body.role ?? null, verified: !!answer.body.verified, auth: !!answer.body.auth_required, known: true });
  } else if (answer.status === 404) {
    me.known = true;
  }
  return answer;
}
