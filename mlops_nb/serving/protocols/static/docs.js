"use strict"; // Draws openapi.json: every route with its parameters, an example to send, code to copy and the schemas of its responses
const get = id => document.getElementById(id);
let spec = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

function headers() {
  const key = get("key").value;
  return key ? {Authorization: `Bearer ${key}`} : {};
}

// schemas

function resolve(schema) {
  return schema?.$ref ? schema.$ref.split("/").slice(1).reduce((at, part) => at[decodeURIComponent(part)], spec) : schema ?? {};
}

function allowed(schema) {
  const words = {minimum: "≥", maximum: "≤", exclusiveMinimum: ">", exclusiveMaximum: "<", minItems: "at least", maxItems: "at most"};
  const limits = Object.entries(words).filter(([word]) => word in schema && Math.abs(schema[word]) < 2 ** 63);
  return [...limits.map(([word, sign]) => `${sign} ${schema[word]}`), schema.description].filter(Boolean).join(", ");
}

function typeOf(given) { // a schema in a few words
  const schema = resolve(given), choices = schema.anyOf || schema.oneOf;
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map(v => JSON.stringify(v)).join(" | ");
  if (choices) return [...new Set(choices.map(typeOf))].join(" or ");
  const kinds = [schema.type ?? (schema.properties ? "object" : "any value")].flat();
  const named = kinds.map(kind => (kind === "array" && schema.items ? `array of ${typeOf(schema.items)}` : schema.prefixItems ? "array, a value a column" : kind));
  return named.join(" or ");
}

function parts(given) { // the objects with properties that a schema leads to
  const schema = resolve(given);
  if (schema.properties && Object.keys(schema.properties).length) return [schema];
  return [...(schema.anyOf || schema.oneOf || []), ...(schema.items ? [schema.items] : [])].flatMap(parts);
}

function drawSchema(given) {
  const place = make("div", {className: "schema"}, make("span", {className: "type", textContent: [typeOf(given), allowed(resolve(given))].filter(Boolean).join(", ")}));
  const objects = [...new Set(parts(given))];
  objects.forEach((object, i) => {
    if (objects.length > 1) place.append(make("p", {className: "note", textContent: i ? "or" : "One of"}));
    place.append(make("ul", {}, ...Object.entries(object.properties).map(([name, property]) => drawProperty(name, property, object.required?.includes(name)))));
  });
  return place;
}

function drawProperty(name, property, required) {
  const label = make("code", {textContent: name, className: required ? "" : "optional"}), item = make("li", {});
  const words = ` ${[typeOf(property), allowed(resolve(property))].filter(Boolean).join(", ")}`;
  if (!parts(property).length) { item.append(label, make("span", {className: "type", textContent: words})); return item; }
  const inner = make("details", {}, make("summary", {}, label, make("span", {className: "type", textContent: words})));
  inner.addEventListener("toggle", () => { if (inner.children.length === 1) inner.append(...[...drawSchema(property).childNodes].slice(1)); }, {once: true});
  item.append(inner);
  return item;
}

// code to copy

const quoted = text => `'${text.replaceAll("'", `'\\''`)}'`;

function python(value, indent = "") {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `, list = Array.isArray(value);
  const items = list ? value.map(v => python(v, inner)) : Object.entries(value).map(([k, v]) => `${JSON.stringify(k)}: ${python(v, inner)}`);
  const [open, close] = list ? "[]" : "{}", line = `${open}${items.join(", ")}${close}`;
  return line.length < 70 ? line : `${open}\n${items.map(i => `${inner}${i},\n`).join("")}${indent}${close}`;
}

function parsed(text) {
  try { return JSON.parse(text); } catch { return undefined; }
}

const CODE = {
  curl({method, url, sent, body}) {
    const lines = [`curl${method === "GET" ? "" : ` -X ${method}`} ${quoted(url)}`, ...Object.entries(sent).map(([k, v]) => `-H ${k === "Authorization" ? `"${k}: ${v}"` : quoted(`${k}: ${v}`)}`)];
    return [...lines, ...(body == null ? [] : [`-d ${quoted(parsed(body) === undefined ? body : JSON.stringify(parsed(body)))}`])].join(" \\\n  ");
  },
  Python({method, url, sent, body}) {
    const own = Object.entries(sent).filter(([k]) => k !== "Content-Type").map(([k, v]) => `${JSON.stringify(k)}: ${k === "Authorization" ? `f"Bearer {os.environ['KEY']}"` : JSON.stringify(v)}`);
    const value = body == null ? undefined : parsed(body);
    const given = [JSON.stringify(url), ...(body == null ? [] : [value === undefined ? `data=${JSON.stringify(body)}` : `json=${python(value, "    ")}`])];
    const options = [...given, ...(own.length ? [`headers={${own.join(", ")}}`] : []), "timeout=10"];
    return `${own.some(h => h.includes("KEY")) ? "import os\n\n" : ""}import requests\n\nresponse = requests.${method.toLowerCase()}(\n    ${options.join(",\n    ")},\n)\nresponse.raise_for_status()\nprint(response.${url.includes("/metrics") || url.includes("/version") && method === "GET" && !url.includes("/versions") ? "text" : "json()"})`;
  },
  JavaScript({method, url, sent, body}) {
    const own = Object.entries(sent).map(([k, v]) => `${JSON.stringify(k)}: ${k === "Authorization" ? "`Bearer ${KEY}`" : JSON.stringify(v)}`);
    const options = [...(method === "GET" ? [] : [`method: "${method}"`]), ...(own.length ? [`headers: {${own.join(", ")}}`] : [])];
    const value = body == null ? undefined : parsed(body);
    if (body != null) options.push(value === undefined ? `body: ${JSON.stringify(body)}` : `body: JSON.stringify(${JSON.stringify(value, null, 2).replaceAll("\n", "\n  ")})`);
    const second = options.length ? `, {\n  ${options.join(",\n  ")},\n}` : "";
    return `const response = await fetch(${JSON.stringify(url)}${second});\nif (!response.ok) throw new Error(await response.text());\nconsole.log(await response.text());`;
  },
};

async function copy(button, text) { // without a secure context the clipboard takes a selection alone
  try { await navigator.clipboard.writeText(text.textContent); } catch { getSelection().selectAllChildren(text); document.execCommand("copy"); }
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = "Copy"; }, 2000);
}

// routes

const SENT = ["Predict", "Labels"]; // groups whose POST routes can be tried here; the others change the service

function drawOperation(path, method, route, place) {
  const parameters = route.parameters || [], content = route.requestBody?.content["application/json"];
  const example = content?.example === undefined ? undefined : JSON.stringify(content.example, null, 2);
  const body = content && make("textarea", {spellcheck: false, value: example ?? "{}", rows: Math.min(18, (example ?? "").split("\n").length + 1)});
  body?.setAttribute("aria-label", "Body");
  const fields = parameters.filter(p => p.in === "query").map(p => [p.name, drawField(p)]);
  const code = make("pre"), shown = make("pre", {className: "answer", hidden: true}), status = make("output");
  const request = real => {
    const query = new URLSearchParams(fields.filter(([, field]) => field.value).map(([name, field]) => [name, field.value]));
    const address = `${path.slice(1)}${query.size ? `?${query}` : ""}`, sent = {};
    if (body) sent["Content-Type"] = "application/json";
    for (const p of parameters) if (p.in === "header" && "const" in (p.schema || {})) sent[p.name] = p.schema.const;
    if (real) Object.assign(sent, headers()); else if (route.security) sent.Authorization = "Bearer $KEY";
    return {method: method.toUpperCase(), url: new URL(address, document.baseURI).href, sent, body: body?.value};
  };
  let language = "curl";
  const choose = Object.keys(CODE).map(name => make("button", {type: "button", textContent: name, onclick: () => { language = name; write(); }}));
  const write = () => { code.textContent = CODE[language](request(false)); for (const b of choose) b.setAttribute("aria-pressed", b.textContent === language); };
  if (parameters.length) place.append(make("h3", {textContent: "Parameters"}), ...fields.map(([name, field]) => make("p", {}, make("label", {}, make("code", {textContent: name}), " ", field))),
    ...parameters.filter(p => p.in === "header").map(p => make("p", {}, make("code", {textContent: p.name}), ` ${typeOf(p.schema)}, a header`)));
  if (body) place.append(make("h3", {textContent: "Body"}), body);
  if (method === "get" || SENT.includes(route.tags?.[0])) place.append(make("p", {}, make("button", {className: "send", textContent: "Send", onclick: () => send(request(true), status, shown)}), " ", status), shown);
  else place.append(make("p", {className: "note", textContent: "It changes the service, so it is not sent from this page."}));
  const copies = make("button", {type: "button", className: "copy", textContent: "Copy", onclick: () => copy(copies, code)});
  place.append(make("div", {className: "bar"}, make("h3", {textContent: "Code"}), ...choose, copies), code);
  if (content) place.append(make("h3", {textContent: "Body, in full"}), make("details", {className: "schema"}, make("summary", {textContent: "Schema"}), drawSchema(content.schema)));
  place.append(make("h3", {textContent: "Responses"}), ...Object.entries(route.responses).map(([number, response]) => drawResponse(number, response)));
  for (const field of [body, ...fields.map(([, f]) => f)]) field?.addEventListener("input", write);
  write();
}

function drawField({name, schema = {}, required}) {
  if (!schema.enum) return make("input", {name, required: Boolean(required)});
  const choice = make("select", {name}, ...(required || schema.default ? [] : [make("option", {value: "", textContent: "–"})]), ...schema.enum.map(v => make("option", {value: v, textContent: v})));
  if (schema.default) choice.value = schema.default;
  return choice;
}

function drawResponse(number, response) {
  const kinds = Object.entries(response.content || {}), inner = make("details", {className: "responses", open: number < "300"});
  inner.append(make("summary", {}, make("b", {textContent: number}), response.description));
  for (const [kind, {schema}] of kinds) inner.append(make("p", {className: "note", textContent: kind}), drawSchema(schema));
  return inner;
}

async function send({method, url, sent, body}, status, shown) {
  const started = performance.now();
  let text, ok = false;
  try {
    const response = await fetch(url, {method, headers: sent, body});
    text = await response.text();
    ok = response.ok;
    status.textContent = `${response.status} in ${Math.round(performance.now() - started)} ms`;
  } catch { status.textContent = "The service does not respond."; }
  const value = parsed(text);
  shown.textContent = value === undefined ? text ?? "" : JSON.stringify(value, null, 2);
  shown.className = ok ? "answer" : "answer failed";
  shown.hidden = text === undefined;
}

function drawGroups() {
  const groups = new Map((spec.tags || []).map(({name}) => [name, []]));
  for (const [path, methods] of Object.entries(spec.paths)) for (const [method, route] of Object.entries(methods)) {
    const tag = route.tags?.[0] ?? "Others";
    groups.set(tag, [...(groups.get(tag) || []), [path, method, route]]);
  }
  get("operations").replaceChildren();
  get("groups").replaceChildren();
  for (const [name, routes] of groups) {
    if (!routes.length) continue;
    get("operations").append(make("h2", {textContent: name}));
    get("groups").append(make("h2", {textContent: name}));
    for (const [path, method, route] of routes) {
      const id = `${method}${path}`, inside = make("div"), shown = make("details", {className: "operation", id});
      shown.append(make("summary", {}, make("span", {className: `method ${method}`, textContent: method.toUpperCase()}), make("code", {textContent: path}), make("span", {textContent: route.summary}), ...(route.security ? [make("span", {className: "tag", textContent: "key"})] : [])), inside);
      shown.addEventListener("toggle", () => { if (!inside.children.length) drawOperation(path, method, route, inside); });
      get("operations").append(shown);
      get("groups").append(make("a", {href: `#${encodeURIComponent(id)}`, textContent: path, title: route.summary, onclick: () => { shown.open = true; }}));
    }
  }
  const first = get(decodeURIComponent(location.hash.slice(1))) ?? get("operations").querySelector("details");
  if (first?.tagName === "DETAILS") first.open = true;
  if (location.hash) first?.scrollIntoView();
}

function drawInputs() {
  const row = spec.components.schemas.Row, rows = get("inputs").tBodies[0];
  rows.replaceChildren();
  get("columns").hidden = !row;
  for (const [name, schema] of Object.entries(row?.properties || {})) {
    if (!schema.type) continue;
    const cells = [name, [schema.type].flat().join(" or "), schema.enum ? schema.enum.filter(v => v !== null).join(", ") : allowed(schema)];
    rows.append(make("tr", {}, ...cells.map(textContent => make("td", {textContent}))));
  }
}

async function show() {
  const model = new URLSearchParams(location.search).get("model");
  const response = await fetch(`openapi.json${model ? `?model=${encodeURIComponent(model)}` : ""}`, {headers: headers()});
  const given = await response.json();
  get("locked").hidden = response.status !== 401 && response.status !== 403;
  if (!response.ok) { get("description").textContent = given.error; get("operations").replaceChildren(); return; }
  spec = given;
  get("title").textContent = document.title = spec.info.title;
  get("description").textContent = spec.info.description.replaceAll("`", "");
  drawGroups();
  drawInputs();
}

get("locked").addEventListener("submit", event => { event.preventDefault(); show(); });
show();
