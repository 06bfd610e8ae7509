"use strict";
const get = id => document.getElementById(id);

function addRow(table, cells) {
  const row = get(table).tBodies[0].insertRow();
  for (const text of cells) row.insertCell().textContent = text;
}

function allowed(schema) {
  if (schema.enum) return schema.enum.filter(v => v !== null).join(", ");
  const words = {minimum: "≥", maximum: "≤", exclusiveMinimum: ">", exclusiveMaximum: "<"};
  const limits = Object.entries(words).filter(([word]) => word in schema && Math.abs(schema[word]) < 2 ** 63);
  return limits.map(([word, sign]) => `${sign} ${schema[word]}`).join(", ") || schema.description || "";
}

function headers() {
  const key = get("key").value;
  return key ? {Authorization: `Bearer ${key}`} : {};
}

async function show() {
  const answer = await fetch("openapi.json", {headers: headers()});
  const spec = await answer.json();
  get("locked").hidden = answer.status !== 401 && answer.status !== 403;
  if (!answer.ok) { get("description").textContent = spec.error; return; }
  for (const table of ["inputs", "routes"]) get(table).tBodies[0].replaceChildren();
  get("title").textContent = document.title = spec.info.title;
  get("description").textContent = spec.info.description.replaceAll("`", "");
  const row = spec.components.schemas.Row;
  for (const [name, schema] of Object.entries(row.properties)) {
    if (schema.type) addRow("inputs", [name, [schema.type].flat().join(" or "), allowed(schema)]);
  }
  for (const [path, methods] of Object.entries(spec.paths))
    for (const [method, route] of Object.entries(methods))
      addRow("routes", [`${method.toUpperCase()} ${path}`, route.summary]);
  const example = spec.components.examples?.row?.value;
  get("body").value = JSON.stringify({features: example ? [example] : []}, null, 2);
}

async function send() {
  const started = performance.now();
  const answer = await fetch("predict", {
    method: "POST", headers: {"Content-Type": "application/json", ...headers()}, body: get("body").value,
  });
  const content = await answer.text();
  get("status").textContent = `${answer.status} in ${Math.round(performance.now() - started)} ms`;
  get("answer").textContent = content;
  get("answer").className = answer.ok ? "" : "failed";
  get("answer").hidden = false;
}

get("send").addEventListener("click", send);
get("locked").addEventListener("submit", event => { event.preventDefault(); show(); });
show();
