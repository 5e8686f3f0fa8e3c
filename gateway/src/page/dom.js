// Elements out of text and parts, and bringing what is shown up to date without losing focus, selection
// or scroll. Text only ever goes into the document as text.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `h("a", { href, class, onclick, key }, ...children)`. False and null children are left out. */
export const h = (tag, props, ...kids) => build(document.createElement(tag), props, kids);

/** The same for drawings. */
export const s = (tag, props, ...kids) => build(document.createElementNS(SVG, tag), props, kids);

const dispatch = (e) => e.currentTarget.haltlineOn?.[e.type]?.(e);

function build(el, props, kids) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "key") el.haltlineKey = String(value);
    else if (name.startsWith("on")) listen(el, name.slice(2), value);
    else if (name === "value") { el.setAttribute("value", value); el.value = value; }
    else el.setAttribute(name, value === true ? "" : String(value));
  }
  for (const kid of kids.flat(Infinity)) {
    if (kid === null || kid === undefined || kid === false || kid === "") continue;
    el.append(kid instanceof Node ? kid : document.createTextNode(String(kid)));
  }
  return el;
}

function listen(el, type, handler) {
  el.haltlineOn ??= {};
  if (!el.haltlineOn[type]) el.addEventListener(type, dispatch);
  el.haltlineOn[type] = handler;
}

/** Makes the children of `parent` be `kids`, keeping the elements that are there already. */
export function show(parent, ...kids) {
  const next = build(document.createDocumentFragment(), null, kids);
  children(parent, [...next.childNodes]);
}

function children(parent, next) {
  const keyed = new Map();
  for (const c of parent.childNodes) if (c.haltlineKey !== undefined) keyed.set(c.haltlineKey, c);
  let at = parent.firstChild;
  for (const want of next) {
    let have = null;
    if (want.haltlineKey !== undefined) have = keyed.get(want.haltlineKey) ?? null;
    else if (at && at.haltlineKey === undefined) have = at;
    if (have && have.nodeName === want.nodeName) {
      if (have !== at) parent.insertBefore(have, at);
      else at = at.nextSibling;
      same(have, want);
    } else {
      parent.insertBefore(want, at);
    }
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

function same(el, want) {
  if (el.nodeType === Node.TEXT_NODE) {
    if (el.data !== want.data) el.data = want.data;
    return;
  }
  for (const { name } of [...el.attributes]) {
    // What people opened or typed stays.
    if (!want.hasAttribute(name) && name !== "open") el.removeAttribute(name);
  }
  for (const { name, value } of want.attributes) {
    if (el.getAttribute(name) !== value) {
      el.setAttribute(name, value);
      if (name === "value" && el !== document.activeElement) el.value = value;
    }
  }
  for (const type of Object.keys(el.haltlineOn ?? {})) el.haltlineOn[type] = null;
  for (const [type, handler] of Object.entries(want.haltlineOn ?? {})) listen(el, type, handler);
  if (want.hasAttribute("data-keep")) return; // its content is somebody else's
  if (el.nodeName === "SELECT" && el === document.activeElement) return;
  children(el, [...want.childNodes]);
}
