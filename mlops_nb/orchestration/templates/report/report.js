"use strict";
// Draw the numbers of each chart; without this script, and in print, its picture stands there.
const color = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const two = n => String(n).padStart(2, "0");
const minute = t => { const d = new Date(t * 1000); return `${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())} ${two(d.getUTCHours())}:${two(d.getUTCMinutes())}`; };
const number = v => (v == null ? "–" : Math.abs(v) >= 1000 ? Math.round(v).toLocaleString("en") : String(+v.toPrecision(4)));
const HEIGHT = 220;

function columns(panel) { // All lines over the same values of x, intervals beside their lines
  const tables = [], lines = [], bands = [];
  for (const s of panel.series) {
    tables.push([s.x, s.y]);
    lines.push(s);
    if (!s.low) continue;
    for (const end of ["high", "low"]) {
      tables.push([s.x, s[end]]);
      lines.push({kind: "end", label: `${s.label}, ${end}`});
    }
    bands.push([lines.length - 2, lines.length - 1]);
  }
  return {data: uPlot.join(tables), lines, bands: bands.map(([a, b]) => ({series: [a + 1, b + 1], fill: color("band")}))};
}

function options(panel, lines, bands, width) {
  const value = panel.unit === "%" ? v => (v == null ? "–" : `${+(100 * v).toFixed(1)} %`) : number;
  const axis = {stroke: color("soft"), grid: {stroke: color("line"), width: 1}, ticks: {stroke: color("line"), width: 1}, font: "12px system-ui"};
  let i = 0;
  const drawn = lines.map(s => {
    if (s.kind === "end") return {label: s.label, stroke: "transparent", points: {show: false}, spanGaps: true, value: (_, v) => value(v)};
    const stroke = s.kind === "dashed" ? color("soft") : s.label === "gate" ? color("c3") : color(`c${i++ % 5}`);
    const paths = {bars: uPlot.paths.bars({size: [0.9, 60], align: 1}), steps: uPlot.paths.stepped({align: 1}), points: () => null}[s.kind];
    return {label: s.label, stroke, width: 2, spanGaps: true, value: (_, v) => value(v), ...(paths && {paths}), ...(s.kind === "bars" && {fill: stroke, width: 0}),
      ...(s.kind === "dashed" && {dash: [6, 5]}), points: {show: s.kind === "points" || (s.kind === "line" && panel.is_time), size: 6}};
  });
  const shade = u => {
    if (!panel.shaded) return;
    const [a, b] = panel.shaded.map(t => u.valToPos(t, "x", true)), left = Math.max(a, u.bbox.left), right = Math.min(Math.max(b, a + 2), u.bbox.left + u.bbox.width);
    u.ctx.fillStyle = color("shade");
    u.ctx.fillRect(left, u.bbox.top, right - left, u.bbox.height);
  };
  const x = panel.is_time ? {...axis, space: 90, values: (_, all) => all.map(minute)} : {...axis, label: panel.x, labelFont: "12px system-ui", labelSize: 20};
  return {width, height: HEIGHT, bands, hooks: {drawClear: [shade]}, tzDate: t => uPlot.tzDate(new Date(t * 1000), "Etc/UTC"),
    scales: {x: {time: panel.is_time, ...(!panel.is_time && {range: [0, 1]})}}, axes: [x, {...axis, size: 60, values: (_, all) => all.map(value)}],
    cursor: {drag: {x: true, y: false}}, series: [{label: panel.is_time ? "time (UTC)" : panel.x, value: (_, v) => (v == null ? "–" : panel.is_time ? minute(v) : number(v))}, ...drawn]};
}

const plots = [];
function draw(figure) {
  const panels = JSON.parse(figure.querySelector("script").textContent);
  const all = document.createElement("div");
  all.className = panels[0].is_time ? "panels time" : "panels";
  figure.append(all);
  figure.classList.add("drawn");
  for (const panel of panels) {
    const place = document.createElement("div"), title = document.createElement("h3");
    place.className = "panel";
    title.textContent = panel.title;
    place.append(title);
    all.append(place);
    const {data, lines, bands} = columns(panel);
    const make = () => new uPlot(options(panel, lines, bands, place.clientWidth), data, place);
    const kept = {place, make, plot: make()};
    plots.push(kept);
  }
}
document.querySelectorAll("figure.chart").forEach(draw);
const again = () => plots.forEach(kept => { kept.plot.destroy(); kept.plot = kept.make(); });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
addEventListener("resize", () => plots.forEach(({plot, place}) => plot.setSize({width: place.clientWidth, height: HEIGHT})));
