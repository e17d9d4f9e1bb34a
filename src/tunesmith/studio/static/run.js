// Curves, state and log of one run: all points once, then what is new as the server tells it.
const $ = id => document.getElementById(id);
const words = JSON.parse($("words").textContent);
const charts = $("charts");
const MEASURES = ["loss", "learning_rate", "gradient_norm", "tokens_per_second", "memory"];
const MANY = 6000;  // points beyond which all are fetched anew, thinned by the server
let curves = null, plots = new Map(), source = null, drawing = false;
let offset = 0;  // bytes of the progress file that are on this page

const fill = (text, values) => text.replace(/\{(\w+)[^}]*\}/g, (_, name) => values[name]);
const brief = value => value == null ? "–" : Math.abs(value) >= 1e4 ? Math.round(value).toLocaleString("en")
  : Math.abs(value) < 0.01 && value ? value.toExponential(1)
  : String(+value.toPrecision(4));

const bytes = value => value == null ? "–" : value >= 1e9 ? +(value / 1e9).toPrecision(3) + " GB" : +(value / 1e6).toPrecision(3) + " MB";
const toText = name => name === "memory" ? bytes : brief;
const WHOLE = [1, 2, 5].flatMap(n => [n, 10 * n, 100 * n, 1e3 * n, 1e4 * n, 1e5 * n, 1e6 * n]).sort((a, b) => a - b);

// -- drawing -------------------------------------------------------------------------------------

function colour(name) {  // a custom property with light-dark() in it is resolved only where a colour stands
  const probe = document.body.appendChild(Object.assign(document.createElement("span"), { className: "seen" }));
  probe.style.color = `var(${name})`;
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function smoothed(values) {
  const keep = Math.max(0.6, 1 - 40 / values.length);
  let mean = null, weight = 0;
  return values.map(value => {
    if (value == null) return null;
    weight = 1 - (1 - weight) * keep;
    mean = mean == null ? value : mean + (value - mean) * (1 - keep) / weight;
    return mean;
  });
}

function dataOf(name) {
  if (name !== "loss") return curves[name];
  const [steps, losses] = curves.loss, validation = curves.validation;
  const train = [steps, losses, smoothed(losses)];
  return validation[0].length ? uPlot.join([train, validation]) : [...train, steps.map(() => null)];
}

function seriesOf(name) {
  const value = (_, number) => brief(number), train = colour("--train-line");
  const step = { label: words.step, value };
  if (name !== "loss") return [step, { label: words[name], stroke: train, width: 1.5, value, points: { show: false } }];
  const faint = train.replace("rgb(", "rgba(").replace(")", ", .3)");
  return [step,
    { label: words.loss, stroke: faint, width: 1, value, spanGaps: true, points: { show: false } },
    { label: words.smooth, stroke: train, width: 2, value, spanGaps: true, points: { show: false } },
    { label: words.validation, stroke: colour("--valid-line"), width: 2, dash: [6, 3], value, spanGaps: true,
      points: { show: true, size: 6, fill: colour("--valid-line") } }];
}

function plotOf(figure) {
  const box = figure.querySelector(".plot"), name = figure.dataset.of;
  const axis = { stroke: colour("--dim"), grid: { stroke: colour("--line"), width: 1 }, ticks: { stroke: colour("--line") } };
  const large = name === "loss";
  return new uPlot({
    width: box.clientWidth, height: large ? 300 : 170, legend: { show: large },
    scales: { x: { time: false } }, cursor: { points: { size: 6 } }, series: seriesOf(name),
    hooks: { setCursor: large ? [] : [plot => show(figure, plot.cursor.idx)] },
    axes: [{ ...axis, incrs: WHOLE }, { ...axis, size: 62, values: (_, ticks) => ticks.map(toText(name)) }],
  }, dataOf(name), box);
}

function show(figure, i) {  // the value under the pointer, else the newest
  const [steps, values] = curves[figure.dataset.of], at = i ?? values.length - 1;
  figure.querySelector("output").textContent = toText(figure.dataset.of)(values[at]) + (i == null ? "" : ` · ${words.step} ${steps[at].toLocaleString("en")}`);
}

function describe(figure) {
  const [steps, values] = curves[figure.dataset.of], name = words[figure.dataset.of], last = steps.length - 1, say = toText(figure.dataset.of);
  figure.querySelector(".plot").setAttribute("aria-label", last < 0 ? name : fill(words.range,
    { name, first: say(values[0]), from: steps[0], last: say(values[last]), to: steps[last] }));
}

function draw() {
  drawing = false;
  const known = curves.loss[0].length > 0;
  charts.hidden = !known;
  $("waiting").hidden = known;
  if (!known) return;
  for (const figure of charts.querySelectorAll("figure")) {
    const name = figure.dataset.of;
    figure.hidden = !curves[name][0].length;
    if (figure.hidden) continue;
    if (plots.has(name)) plots.get(name).setData(dataOf(name));
    else plots.set(name, plotOf(figure));
    describe(figure);
    if (name !== "loss") show(figure, null);
  }
  const rows = curves.validation[0].map((step, i) => {
    const row = document.createElement("tr");
    for (const value of [step, curves.validation[1][i].toFixed(4)]) row.appendChild(document.createElement("td")).textContent = value;
    return row;
  });
  $("validations").hidden = !rows.length;
  $("validations").querySelector("tbody").replaceChildren(...rows);
  charts.dataset.last = curves.loss[0].at(-1);
}

function drawSoon() {
  if (!drawing) requestAnimationFrame(draw);
  drawing = true;
}

function redraw() {
  for (const plot of plots.values()) plot.destroy();
  plots = new Map();
  drawSoon();
}

// -- what the server tells -------------------------------------------------------------------------

function forget(step) {
  for (const [steps, values] of Object.values(curves)) {
    while (steps.length && steps.at(-1) > step) { steps.pop(); values.pop(); }
  }
}

function news({ points, validations, forget: after, log }) {
  if (after != null) forget(after);
  for (const [step, ...values] of points) {
    MEASURES.forEach((name, i) => {
      if (values[i] != null) { curves[name][0].push(step); curves[name][1].push(values[i]); }
    });
  }
  for (const [step, loss] of validations) { curves.validation[0].push(step); curves.validation[1].push(loss); }
  write(log);
  if (curves.loss[0].length > MANY) load(); else drawSoon();
}

function write(lines, anew = false) {
  const log = $("log"), atEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 8;
  const items = lines.map(({ time, kind, text }) => {
    const item = document.createElement("li");
    item.className = kind;
    item.appendChild(document.createElement("time")).textContent = time;
    item.appendChild(document.createElement("span")).textContent = text;
    return item;
  });
  if (anew) log.replaceChildren(...items); else log.append(...items);
  while (log.children.length > 300) log.firstChild.remove();
  if (anew || atEnd) log.scrollTop = log.scrollHeight;
}

function state(now) {
  $("now").dataset.state = now.state;
  $("state").className = "state " + now.state;
  const texts = { state: now.state_name, stage: now.stage, doing: now.doing, failure: now.failure,
    step: (now.step ?? 0).toLocaleString("en"), steps: (now.steps ?? 0).toLocaleString("en"),
    left: now.left ? fill(words.left, { time: now.left }) : "" };
  for (const [id, text] of Object.entries(texts)) if ($(id).textContent !== text) $(id).textContent = text;
  $("failure").hidden = !now.failure;
  $("progress").hidden = !now.steps;
  $("bar").max = now.steps || 1;
  $("bar").value = now.step || 0;
  $("stop").hidden = $("stop-says").hidden = now.state !== "running";
  $("stop").disabled = now.stopping;
  $("continue").hidden = now.state === "running" || now.state === "finished";
  $("continue").textContent = now.state === "new" ? words.start : words.continue;
  $("readings").replaceChildren(...now.readings.map(([name, value]) => {
    const reading = document.createElement("div");
    reading.appendChild(document.createElement("dt")).textContent = name;
    reading.appendChild(document.createElement("dd")).textContent = value;
    return reading;
  }));
}

async function load() {
  source?.close();
  try {
    const answer = await fetch(charts.dataset.points);
    if (!answer.ok) throw new Error(answer.status);
    const all = await answer.json();
    curves = all.curves;
    write(all.log, true);
    drawSoon();
    offset = all.offset;
    listen();
  } catch {
    lost(true);
    setTimeout(load, 2000);
  }
}

function listen() {
  source?.close();
  if (document.hidden) return;  // a browser has six connections to one server: tabs that nobody sees leave theirs
  source = new EventSource(`${charts.dataset.events}?offset=${offset}`);
  source.addEventListener("open", () => lost(false));
  source.addEventListener("news", event => { offset = event.lastEventId; news(JSON.parse(event.data)); });
  source.addEventListener("state", event => state(JSON.parse(event.data)));
  source.addEventListener("reload", load);
  source.addEventListener("error", () => {
    lost(true);
    if (source.readyState === EventSource.CLOSED) setTimeout(load, 2000);
  });
}

function lost(yes) { $("lost").hidden = !yes; }

new ResizeObserver(() => {
  for (const [name, plot] of plots) {
    const width = charts.querySelector(`[data-of="${name}"] .plot`).clientWidth;
    if (width && width !== plot.width) plot.setSize({ width, height: plot.height });
  }
}).observe(charts);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
document.addEventListener("visibilitychange", () => { if (document.hidden) source?.close(); else if (curves) listen(); });
addEventListener("pagehide", () => source?.close());
addEventListener("pageshow", event => { if (event.persisted) load(); });
load();
