"use strict";
const EVERY = 2000; // Milliseconds between two refreshes
let turn = 0;

function swap(page) {
  for (const fresh of page.querySelectorAll("[data-live]")) {
    const old = get(fresh.id), focus = document.activeElement;
    for (const now of fresh.querySelectorAll("details[id]")) if (get(now.id)) now.open = get(now.id).open;
    for (const box of fresh.querySelectorAll("input[name=compare]")) {
      const known = old.querySelector(`input[value="${box.value}"]`);
      if (known) box.toggleAttribute("checked", known.checked);
    }
    const frame = old.querySelector("iframe"), next = fresh.querySelector("iframe");
    if (frame && next && frame.dataset.key === next.dataset.key) { // its address has another ticket each time
      const known = frame.getAttribute("src");
      next.setAttribute("src", known);
      fresh.querySelector("a[target]").setAttribute("href", known);
    }
    if (old.innerHTML === fresh.innerHTML) continue;
    const held = old.contains(focus) && focus.href ? focus.getAttribute("href") : null;
    old.replaceChildren(...fresh.childNodes);
    if (held) [...old.querySelectorAll("a")].find(a => a.getAttribute("href") === held)?.focus();
  }
  get("title").textContent = document.title = page.title;
}

async function refresh() {
  const mine = ++turn;
  try {
    const page = await read(location.href);
    if (mine !== turn) return;
    if (unlock(page)) {
      if (Boolean(get("build")) !== Boolean(page.getElementById("build"))) { // this key may do more than none
        const actions = page.getElementById("actions"), dialog = page.getElementById("build");
        if (actions && dialog) { get("commands").before(actions); document.body.append(dialog); }
      }
      swap(page);
      get("updated").textContent = `Updated at ${new Date().toISOString().slice(11, 19)}, every ${EVERY / 1000} seconds.`;
    }
    trouble("");
  } catch (error) {
    if (mine === turn) trouble(describe(error));
  }
}

async function send(path, body) { // the error, or null
  const model = new URLSearchParams(location.search).get("model");
  try {
    const response = await fetch(model ? `${path}?model=${encodeURIComponent(model)}` : path, {
      method: "POST", headers: {"Content-Type": "application/json", "X-Dashboard": "move", ...headers()}, body: JSON.stringify(body),
    });
    return response.ok ? null : (await response.json()).error;
  } catch { return "The service does not respond; nothing is known of the command."; }
}

function parameters() {
  const given = {};
  for (const field of get("build").querySelectorAll("[data-kind]")) {
    const changed = field.type === "checkbox" ? field.checked !== field.defaultChecked : field.value !== field.defaultValue;
    if (!changed) continue;
    given[field.name] = field.type === "checkbox" ? field.checked : field.type === "number" ? Number(field.value) : field.value.trim() || "none";
  }
  return given;
}

async function run(event) {
  event.preventDefault();
  get("confirm").disabled = true;
  const error = await send("pipeline/commands", {kind: "build", parameters: parameters()});
  get("confirm").disabled = false;
  get("build-failed").textContent = error || "";
  get("build-failed").hidden = !error;
  if (error) return;
  get("build").close();
  go(address({run: null, stage: null}));
}

function address(changes) {
  const query = new URLSearchParams(location.search);
  for (const [name, value] of Object.entries(changes)) value == null ? query.delete(name) : query.set(name, value);
  return `${location.pathname}${query.size ? `?${query}` : ""}`;
}

function go(href) {
  history.pushState(null, "", href);
  keepUp();
}

document.addEventListener("click", async event => {
  const button = event.target.closest("button"), link = event.target.closest("a[href]");
  if (link && !link.getAttribute("target") && new URL(link.href.baseVal ?? link.href, location.href).pathname === location.pathname) {
    event.preventDefault();
    go(link.getAttribute("href"));
  }
  if (!button) return;
  if (button.dataset.form) { get("build-failed").hidden = true; get("build").showModal(); }
  if (button.id === "cancel") get("build").close();
  if (button.dataset.command || button.dataset.stop) {
    button.disabled = true;
    const {command, stop} = button.dataset;
    const error = command ? await send("pipeline/commands", {kind: command}) : await send("pipeline/commands/stop", {id: stop});
    button.disabled = false;
    await keepUp();
    if (error) trouble(error);
  }
});
document.addEventListener("submit", event => {
  if (event.target.closest("#build")) run(event);
});
document.addEventListener("change", event => {
  if (event.target.name !== "compare") return;
  const chosen = [...document.querySelectorAll("input[name=compare]:checked")].map(box => box.value);
  if (chosen.length > 2) { event.target.checked = false; return; }
  go(address({compare: chosen.length === 2 ? chosen.join(",") : null}));
});
window.addEventListener("popstate", keepUp);
keepUp();
