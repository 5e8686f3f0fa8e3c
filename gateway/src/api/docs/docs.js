// Shows /v1/openapi.json and sends requests to where this page comes from. No library: the document is
// plain, and this page must work where nothing else can be reached.
"use strict";

const make = (tag, text, attributes = {}) => {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = String(text);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};

const METHODS = ["get", "post", "put", "delete"];

function resolve(doc, schema) {
  const path = schema && schema.$ref;
  if (!path) return schema || {};
  return path.replace("#/", "").split("/").reduce((at, part) => at[part], doc);
}

// One line for a schema; objects are listed as rows.
function kind(doc, schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.enum) return schema.enum.join(" | ");
  if (schema.const !== undefined) return JSON.stringify(schema.const);
  const any = schema.oneOf || schema.anyOf;
  if (any) return any.map((s) => kind(doc, s)).join(" | ");
  const type = Array.isArray(schema.type) ? schema.type.join(" | ") : schema.type || "any";
  return type === "array" ? `${kind(doc, schema.items)}[]` : type;
}

function fields(doc, schema) {
  const whole = resolve(doc, schema);
  const required = new Set(whole.required || []);
  const entries = Object.entries(whole.properties || {});
  if (!entries.length) return make("p", kind(doc, schema));
  const table = make("table");
  for (const [name, value] of entries) {
    const row = table.appendChild(make("tr"));
    row.appendChild(make("td")).appendChild(make("code", required.has(name) ? `${name} *` : name));
    row.appendChild(make("td", kind(doc, value)));
    row.appendChild(make("td", value.description || resolve(doc, value).description || ""));
  }
  return table;
}

function trial(method, path, operation) {
  const form = make("form", undefined, { class: "try" });
  const inputs = [];
  for (const p of operation.parameters || []) {
    const label = form.appendChild(make("label", `${p.name} (${p.in}) `));
    const input = label.appendChild(make("input", undefined, { type: "text", autocomplete: "off" }));
    if (p.required) input.required = true;
    inputs.push([p, input]);
  }
  let body;
  if (operation.requestBody) {
    const label = form.appendChild(make("label", "body"));
    body = form.appendChild(make("textarea", "{}", { "aria-label": "body", spellcheck: "false" }));
    label.append("");
  }
  form.appendChild(make("button", "Send"));
  const shown = form.appendChild(make("pre", "", { hidden: "" }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    let address = path;
    const query = new URLSearchParams();
    const headers = {};
    for (const [p, input] of inputs) {
      if (!input.value) continue;
      if (p.in === "path") address = address.replace(`{${p.name}}`, encodeURIComponent(input.value));
      else if (p.in === "query") query.append(p.name, input.value);
      else headers[p.name] = input.value;
    }
    if (String(query)) address += `?${query}`;
    if (body) headers["Content-Type"] = "application/json";
    shown.hidden = false;
    shown.textContent = "…";
    try {
      const answer = await fetch(address, { method: method.toUpperCase(), headers, body: body ? body.value : undefined });
      const text = await answer.text();
      let nice = text;
      try {
        nice = JSON.stringify(JSON.parse(text), null, 2);
      } catch {
        // Plain text is shown as it is.
      }
      shown.textContent = `${answer.status} ${answer.statusText}\n\n${nice}`;
    } catch (error) {
      shown.textContent = `no answer: ${error.message}`;
    }
  });
  return form;
}

function section(doc, path, method, operation) {
  const box = make("details", undefined, { id: operation.operationId });
  const line = box.appendChild(make("summary"));
  line.appendChild(make("span", method.toUpperCase(), { class: "method" }));
  line.appendChild(make("code", path));
  line.appendChild(make("span", operation.summary));
  line.appendChild(make("span", operation["x-haltline-needs"], { class: "needs" }));
  box.dataset.text = `${method} ${path} ${operation.description} ${operation["x-haltline-needs"]}`.toLowerCase();
  box.appendChild(make("p", operation.description));
  if (operation.parameters) {
    box.appendChild(make("h3", "Parameters"));
    const table = box.appendChild(make("table"));
    for (const p of operation.parameters) {
      const row = table.appendChild(make("tr"));
      row.appendChild(make("td")).appendChild(make("code", p.required ? `${p.name} *` : p.name));
      row.appendChild(make("td", `${p.in}, ${kind(doc, p.schema)}`));
      row.appendChild(make("td", p.description || ""));
    }
  }
  for (const [type, content] of Object.entries((operation.requestBody || {}).content || {})) {
    box.appendChild(make("h3", `Body: ${type}`));
    box.appendChild(fields(doc, content.schema));
  }
  for (const [status, given] of Object.entries(operation.responses)) {
    for (const [type, content] of Object.entries(resolve(doc, given).content || {})) {
      box.appendChild(make("h3", `${status}: ${type}`));
      box.appendChild(fields(doc, content.schema));
    }
  }
  box.appendChild(make("h3", "Try it"));
  box.appendChild(trial(method, path, operation));
  return box;
}

async function main() {
  const doc = await (await fetch("/v1/openapi.json")).json();
  document.getElementById("version").textContent = doc.info.version;
  document.getElementById("about").textContent = doc.info.description;
  const tags = new Map();
  for (const [path, item] of Object.entries(doc.paths)) {
    for (const method of METHODS.filter((m) => item[m])) {
      const tag = item[method].tags[0];
      if (!tags.has(tag)) tags.set(tag, []);
      tags.get(tag).push(section(doc, path, method, item[method]));
    }
  }
  const main = document.getElementById("operations");
  main.replaceChildren();
  for (const [tag, boxes] of [...tags].sort()) {
    main.appendChild(make("h2", tag));
    main.append(...boxes);
  }
  if (location.hash) document.getElementById(location.hash.slice(1))?.setAttribute("open", "");
  document.getElementById("find").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/);
    for (const box of main.querySelectorAll("details")) box.hidden = !words.every((w) => box.dataset.text.includes(w));
  });
}

main().catch((error) => {
  document.getElementById("operations").textContent = `The document cannot be read: ${error.message}`;
});
