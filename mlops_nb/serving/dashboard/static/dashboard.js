"use strict";
const EVERY = 5000; // Milliseconds between two looks
const HEIGHT = 196;
const plots = new Map(); // Id of a figure to what is drawn there
let hours = document.body.dataset.hours;
const model = document.body.dataset.model; // Of several; empty where the service has one
const which = model ? `model=${encodeURIComponent(model)}` : "";
let shown = null; // The last figures

const color = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const two = n => String(n).padStart(2, "0");
const clock = d => `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}`;
const day = d => `${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())}`;
const date = second => new Date(second * 1000);
const number = v => (v == null ? "–" : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(4)));
const count = (n, noun) => `${number(n)} ${noun}${n === 1 ? "" : "s"}`;
const percent = v => (v == null ? "–" : `${+(100 * v).toFixed(1)} %`);

// charts

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 2880].map(minutes => 60 * minutes); // The axis tells minutes

function axisTime(_, splits) {
  return splits.map(t => (hours === "168" && clock(date(t)) === "00:00" ? day(date(t)) : clock(date(t))));
}

function options(width, chart) {
  const {from, to, series, value, bars, bands, limits} = chart;
  const line = {stroke: color("soft"), grid: {stroke: color("line"), width: 1}, ticks: {stroke: color("line"), width: 1}, font: "12px system-ui"};
  const drawn = series.map((s, i) => {
    const stroke = color(s.color || `c${i % 7}`);
    return {
      label: s.label, stroke, width: s.thin ? 1 : 2, dash: s.dash, value: (u, v, at, place) => value(place == null ? atRest(s, u.data[at], bars) : s.shown ? s.shown()[place] : v), spanGaps: Boolean(s.joined),
      points: bars || s.dash ? {show: false} : {show: true, size: s.thin ? 5 : 7, fill: stroke, filter: (u, at) => lonely(u.data[at], s.joined)},
      ...(bars && {fill: stroke, width: 0, paths: uPlot.paths.bars({size: [0.8, 40], align: 1})}),
    };
  });
  return {
    width, height: HEIGHT, padding: [22, null, null, null], tzDate: t => uPlot.tzDate(date(t), "Etc/UTC"), cursor: {y: false, drag: {x: false, y: false}},
    scales: {x: {time: true, range: [from, to]}, y: {range: (_, low, high) => low == null ? [0, 1] : limits(low, high)}},
    axes: [{...line, values: axisTime, incrs: STEPS, space: 60}, {...line, size: 56, values: (_, splits) => splits.map(value)}],
    series: [{label: "time", value: (_, t) => (t == null ? (bars ? `the last ${LENGTHS[hours]}` : "latest") : `${day(date(t))} ${clock(date(t))}`)}, ...drawn],
    hooks: {draw: [drawMarks]},
    ...(bands && {bands: [{series: bands, fill: color("band")}]}),
  };
}

function atRest(series, drawn, bars) { // what a legend shows while no pointer is on its chart: the sum of bars, the latest value of a line
  const values = (series.shown ? series.shown() : drawn).filter(v => v != null);
  return bars ? values.reduce((sum, v) => sum + v, 0) : values[values.length - 1];
}

function lonely(values, joined) { // points that no line would show
  return [...values.keys()].filter(i => values[i] != null && (joined || (values[i - 1] == null && values[i + 1] == null)));
}

const SIGNS = {promotion: "P", rollback: "R", incident: "!", recovery: "✓"};

function drawMarks(plot) {
  for (const old of plot.over.querySelectorAll(".mark")) old.remove();
  let before = -Infinity; // place of the last label; the next is beside it, above the plot, so that none hides a point
  for (const {at, kind, text, target} of shown?.figures?.marks || []) {
    if (at < plot.scales.x.min || at > plot.scales.x.max) continue;
    const place = plot.valToPos(at, "x"), mark = document.createElement("a");
    const line = document.createElement("i");
    before = Math.max(place, before + 20);
    line.className = `mark line of-${kind}`;
    line.style.left = `${place}px`;
    mark.href = `#${target}`;
    mark.className = `mark of-${kind}`;
    mark.textContent = SIGNS[kind];
    mark.title = `${day(date(at))} ${clock(date(at))}: ${text}`;
    mark.setAttribute("aria-label", mark.title);
    mark.style.left = `${before}px`;
    plot.over.append(line, mark);
  }
}

function fromZero(low, high) {
  const bottom = Math.min(0, low), top = Math.max(high, 0);
  return [bottom * 1.05, top === bottom ? 1 : top + (top - bottom) * 0.08];
}

function near(low, high) { // Where a score is and its gate, and some room
  const room = Math.max(0.05, 0.2 * (high - low));
  return [low - room, high <= 1 ? Math.min(1, high + room) : high + room];
}

function draw(id, chart) {
  const figure = get(id), place = figure.querySelector(".plot"), before = plots.get(id);
  const something = chart.series.some(s => !s.dash && s.values.some(v => v != null && (v !== 0 || !chart.hideZeros)));
  if (!something) {
    before?.plot.destroy();
    plots.delete(id);
    const text = Object.assign(document.createElement("p"), {className: "empty", textContent: figure.dataset.empty});
    place.replaceChildren(text);
    return;
  }
  const data = [chart.at, ...chart.series.map(s => s.values)];
  const shape = JSON.stringify([hours, chart.series.map(s => s.label)]);
  if (before && before.shape === shape) {
    before.chart.from = chart.from; before.chart.to = chart.to;
    before.plot.scales.x.range = () => [chart.from, chart.to];
    before.plot.setData(data);
    return;
  }
  before?.plot.destroy();
  place.replaceChildren();
  plots.set(id, {shape, chart, plot: new uPlot(options(place.clientWidth, chart), data, place)});
  sizes.observe(place);
}

const sizes = new ResizeObserver(entries => {
  for (const {target} of entries) {
    const known = plots.get(target.parentElement.id);
    if (known && target.clientWidth && known.plot.width !== target.clientWidth) known.plot.setSize({width: target.clientWidth, height: HEIGHT});
  }
});

function caption(id, text) { get(id).querySelector("small").textContent = text; }

const LEAST = 12; // Buckets that are shown at least

function beginning({rows}) { // Of a model that is younger than the span, the time since its first row, and some before
  const first = Math.max(0, rows.findIndex(n => n > 0)), lead = Math.ceil((rows.length - first) / 10);
  return Math.max(0, Math.min(first - lead, rows.length - LEAST));
}

function drawAll() {
  const {figures, errors, bucket_seconds: size} = shown, length = `last ${LENGTHS[hours]}`;
  const each = size < 60 ? `${size} seconds` : size < 3600 ? `${size / 60} minute${size > 60 ? "s" : ""}` : `${size / 3600} hours`;
  const begin = figures ? beginning(figures.traffic) : 0;
  const span = {at: errors.at, from: errors.at[begin], to: errors.at[errors.at.length - 1] + size};
  const both = errors.client.map((n, i) => (n == null ? null : n + errors.server[i])); // one upon the other
  draw("errors", {...span, bars: true, hideZeros: true, value: number, limits: fromZero, series: [
    {label: "clients' (4xx)", color: "c4", values: both, shown: () => shown.errors.client}, {label: "the service's (5xx)", color: "bad", values: errors.server},
  ]});
  caption("errors", `${length}, in ${each}, since the worker started`);
  if (!figures) return;
  const {traffic, predictions} = figures;
  const within = {...span, at: traffic.at, from: traffic.at[begin], to: traffic.at[traffic.at.length - 1] + size};
  const cut = traffic.complete_since > traffic.at[0] ? `; complete since ${day(date(traffic.complete_since))} ${clock(date(traffic.complete_since))}` : "";
  draw("requests", {...within, bars: true, hideZeros: true, value: number, limits: fromZero, series: [{label: "requests", values: traffic.requests}]});
  caption("requests", `${length}, in ${each}${cut}`);
  draw("latency", {...within, value: number, limits: fromZero, series: [{label: "median", values: traffic.p50}, {label: "95th percentile", values: traffic.p95}]});
  caption("latency", `${length}, milliseconds`);
  const names = {p10: "10th percentile", p50: "median", p90: "90th percentile"};
  const regression = predictions.task === "regression";
  const order = regression ? ["p90", "p50", "p10"] : Object.keys(predictions.series);
  draw("predictions", {...within, value: regression ? number : percent, limits: regression ? fromZero : () => [0, 1], bands: regression ? [1, 3] : null,
    series: order.map(label => ({label: regression ? names[label] : label, color: regression ? "c0" : undefined, thin: regression && label !== "p50", values: predictions.series[label]}))});
  caption("predictions", `${length}, ${regression ? "values" : "share of each class"}`);
  get("marks").hidden = !figures.marks.some(m => m.at > within.from);
  drawQuality(figures.quality, within);
}

const LENGTHS = {0.25: "15 minutes", 1: "hour", 24: "24 hours", 168: "7 days"};

const OTHERS = ["c3", "c6", "c5", "c4"]; // Colors of versions that are not in production; green and red are verdicts

function drawQuality({version, metrics}, span) {
  const length = `the last ${LENGTHS[hours]}`;
  get("quality-note").textContent = version ? `Predictions of ${length} whose label is known; each version has a line of its own. What the last check measured is above.` : "No version is in production, so there are no gates.";
  const wanted = metrics.map(m => `quality-${m.metric}`);
  for (const old of [...get("quality").children]) if (!wanted.includes(old.id)) { plots.get(old.id)?.plot.destroy(); plots.delete(old.id); old.remove(); }
  for (const m of metrics) {
    const id = `quality-${m.metric}`;
    if (!get(id)) {
      const figure = Object.assign(document.createElement("figure"), {id});
      figure.dataset.empty = "No labels yet: send what turned out to be true to POST /feedback.";
      const title = document.createElement("figcaption"), plot = document.createElement("div");
      title.append(m.name[0].toUpperCase() + m.name.slice(1) + " ", document.createElement("small"));
      plot.className = "plot";
      figure.append(title, plot);
      get("quality").append(figure);
    }
    const gate = m.gate == null ? "no gate" : `gate: at ${m.lower_is_better ? "most" : "least"} ${number(m.gate)}`;
    const measured = m.rows ? `${number(m.value)} on ${count(m.rows, "labelled row")}` : "no labelled rows";
    caption(id, `version ${version}: ${measured} of ${length}; ${gate}`);
    const at = [...new Set([span.from, ...m.series.flatMap(s => s.at.map(t => Math.max(t, span.from + 1))), span.to])].sort((a, b) => a - b);
    const series = m.series.map(s => ({label: `version ${s.version}`, color: s.version === version ? "c0" : OTHERS[s.version % OTHERS.length], thin: s.version !== version, joined: true, values: onAxis(at, s, span)}));
    if (m.gate != null) series.push({label: "gate", color: "bad", dash: [6, 4], values: at.map(() => m.gate)});
    if (m.release != null) series.push({label: `version ${version} at release${m.release_rows ? `, ${count(m.release_rows, "test row")}` : ""}`, color: "soft", dash: [2, 4], values: at.map(() => m.release)});
    draw(id, {...span, at, value: number, series, limits: m.lower_is_better ? fromZero : near});
  }
}

function onAxis(at, {at: own, values}, span) { // Values of one version on the axis of all
  const known = new Map(own.map((t, i) => [Math.max(t, span.from + 1), values[i]]));
  return at.map(t => known.get(t) ?? null);
}

// what the server rendered

function swap(page) {
  for (const fresh of page.querySelectorAll("[data-live]")) {
    const old = get(fresh.id), focus = document.activeElement;
    if (old.innerHTML === fresh.innerHTML) continue;
    for (const now of fresh.querySelectorAll("details[id]")) if (get(now.id)) now.open = get(now.id).open;
    const scrolled = [...old.querySelectorAll(".wide")].map(e => e.scrollLeft);
    const held = old.contains(focus) && focus.dataset.move ? `[data-move="${focus.dataset.move}"][data-version="${focus.dataset.version}"]` : null;
    old.replaceChildren(...fresh.childNodes);
    old.querySelectorAll(".wide").forEach((e, i) => { e.scrollLeft = scrolled[i] || 0; });
    if (held) old.querySelector(held)?.focus();
  }
  get("title").textContent = document.title = page.title;
}

function lock(text) {
  get("locked").hidden = false;
  get("board").hidden = get("windows").hidden = true;
  get("refused").textContent = text;
  get("key").focus();
}

let turn = 0;

async function refresh() {
  const mine = ++turn;
  try {
    const asked = {headers: headers(), cache: "no-store"};
    const answer = await fetch(`dashboard/data.json?hours=${hours}${which && `&${which}`}`, asked);
    const data = await answer.json();
    if (mine !== turn) return; // something else was asked for meanwhile
    if (answer.status === 401 || answer.status === 403) { forget(); lock(data.error); return; }
    if (!answer.ok) throw new Error(data.error);
    const page = await read(`./?hours=${hours}${which && `&${which}`}`);
    if (mine !== turn) return;
    shown = data;
    get("locked").hidden = true;
    get("board").hidden = get("windows").hidden = false;
    if (key) sessionStorage.setItem("key", key);
    swap(page);
    drawAll();
    trouble("");
    get("updated").textContent = `Updated at ${new Date().toISOString().slice(11, 19)}, every ${EVERY / 1000} seconds.`;
  } catch (error) {
    if (mine === turn) trouble(describe(error));
  }
}

// moves

const dialog = get("move");
let move = null;

function ask({move: action, version, expected}) {
  move = {action, version: Number(version), expected: expected ? Number(expected) : null};
  const from = move.expected ? `from version ${move.expected} to version ${version}` : `to version ${version}`;
  get("move-title").textContent = action === "promote" ? `Promote version ${version}?` : `Roll back to version ${version}?`;
  get("move-text").textContent = `Production of ${shown?.model ?? document.title} moves ${from}. The service uses it within seconds.`;
  get("confirm").textContent = action === "promote" ? "Promote" : "Roll back";
  get("move-failed").hidden = true;
  get("reason").value = "";
  get("confirm").disabled = false;
  dialog.showModal();
  get("reason").focus();
}

async function confirmMove() {
  const reason = get("reason").value.trim();
  if (!reason) { get("reason").reportValidity(); return; }
  get("confirm").disabled = true;
  const body = {expected: move.expected, reason, ...(move.action === "promote" && {version: move.version})};
  let failed = null;
  try {
    const answer = await fetch(`admin/${move.action}${which && `?${which}`}`, {
      method: "POST", headers: {"Content-Type": "application/json", "X-Dashboard": "move", ...headers()}, body: JSON.stringify(body),
    });
    if (!answer.ok) failed = (await answer.json()).error;
  } catch { failed = "The service does not answer; nothing is known of the move. Look at the history."; }
  get("confirm").disabled = false;
  get("move-failed").textContent = failed || "";
  get("move-failed").hidden = !failed;
  if (!failed) dialog.close();
  await keepUp();
}

document.addEventListener("click", event => {
  const button = event.target.closest("button[data-move]"), link = event.target.closest("a[data-hours]");
  if (button) ask(button.dataset);
  if (link) {
    event.preventDefault();
    hours = link.dataset.hours;
    for (const other of document.querySelectorAll("a[data-hours]")) other.toggleAttribute("aria-current", other === link);
    link.setAttribute("aria-current", "true");
    history.replaceState(null, "", `./?hours=${hours}${which && `&${which}`}`);
    keepUp();
  }
});
dialog.querySelector("form").addEventListener("submit", event => { event.preventDefault(); confirmMove(); });
get("cancel").addEventListener("click", () => dialog.close());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const {plot} of plots.values()) plot.destroy();
  plots.clear();
  if (shown) drawAll();
});
keepUp();
