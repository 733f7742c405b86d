"use strict";
// Asks `status` once a second, and `crashes` when a worker has died, and shows rates of two answers. All that comes from
// the switch is put in as text (textContent) or as numbers, never as HTML.

const SECOND = 1000;
const SHOWN = 600; // seconds on the time line
const SAME = 100; // milliseconds between two looks at one answer, at most
const MINUTE = 60; // seconds in a row of a table
const GUESTS_MAX = 24; // boxes in the picture
const UPLINKS_MAX = 12;
const IN_ROW = 8;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const number = (value) => (typeof value === "number" && Number.isFinite(value) && value > 0 ? value : 0);
const text = (value) => (typeof value === "string" ? value : "");
const list = (value) => (Array.isArray(value) ? value : []);
const object = (value) => (value && typeof value === "object" ? value : {});

let last = null; // { at, status }
let restarts = -1;
let deaths = [];
let ports = []; // with rates
let sorted = { column: 2, down: true };
const rows = new Map(); // of the table, by key
const minutes = new Map(); // bits a second of the last minute, by key
const past = []; // { at, bits, drops }

// Elements.

function make(parent, name, content, className) {
  const element = document.createElement(name);
  if (content !== undefined) element.textContent = content;
  if (className) element.className = className;
  parent.append(element);
  return element;
}

function draw(parent, name, attributes, content) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, String(value));
  if (content !== undefined) element.textContent = content;
  parent.append(element);
  return element;
}

// Numbers as people read them.

function figure(value) {
  for (const [size, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (value >= size * 0.9995) {
      const scaled = value / size;
      return scaled.toFixed(scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0) + " " + unit;
    }
  }
  return value === 0 ? "0 " : value.toFixed(value < 9.95 ? 1 : 0) + " ";
}

function duration(seconds) {
  if (seconds < 60) return Math.floor(seconds) + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min " + Math.floor(seconds % 60) + " s";
  return Math.floor(seconds / 3600) + " h " + Math.floor((seconds / 60) % 60) + " min";
}

const percent = (share) => (share * 100).toFixed(share > 0 && share < 0.0995 ? 1 : 0) + " %";

// Rates of two answers.

const keyOf = (port) => [number(port.slot), text(port.name), number(port.client_pid)].join(" ");

function total(counts) {
  return Object.values(object(counts)).reduce((sum, count) => sum + number(count), 0);
}

function portOf(now, before, seconds) {
  const from = object(now.from_guest), to = object(now.to_guest);
  const grew = before && number(from.frames) >= number(object(before.from_guest).frames) &&
    number(to.frames) >= number(object(before.to_guest).frames);
  const rate = (of) => (grew && seconds > 0 ? Math.max(0, of(now) - of(before)) / seconds : 0);
  const port = {
    key: keyOf(now),
    name: text(now.name),
    slot: number(now.slot),
    link: text(now.link),
    isUplink: Boolean(now.files || now.card),
    fromFrames: rate((port) => number(object(port.from_guest).frames)),
    fromBits: rate((port) => 8 * number(object(port.from_guest).bytes)),
    toFrames: rate((port) => number(object(port.to_guest).frames)),
    toBits: rate((port) => 8 * number(object(port.to_guest).bytes)),
    drops: rate((port) => total(port.drops)),
    paused: rate((port) => number(object(port.paused).us)) / 1e6,
    others: rate((port) => number(object(port.paused_others).us)) / 1e6,
    notes: [],
  };
  if (now.quarantine_s) {
    port.notes.push("in quarantine for " + duration(number(now.quarantine_s)) + ": " + text(now.quarantine_why));
  }
  if (now.hint) port.notes.push(text(now.hint));
  port.bits = port.fromBits + port.toBits;
  port.reasons = Object.entries(object(now.drops)).map(([reason, count]) => ({
    port: port.name,
    reason,
    count: number(count),
    rate: rate((port) => number(object(port.drops)[reason])),
  }));
  port.deaths = deaths.filter((death) => death.port === port.name).length;
  return port;
}

function take(status, at) {
  const seconds = last ? (at - last.at) / SECOND : 0;
  const before = new Map(list(last && last.status.ports).map((port) => [keyOf(port), port]));
  ports = list(status.ports).map((port) => portOf(object(port), before.get(keyOf(object(port))), seconds));
  const known = new Set(ports.map((port) => port.key));
  for (const key of minutes.keys()) if (!known.has(key)) minutes.delete(key);
  if (last) {
    for (const port of ports) {
      const minute = minutes.get(port.key) || [];
      minute.push({ at, bits: port.bits });
      while (minute.length > 0 && at - minute[0].at > MINUTE * SECOND) minute.shift();
      minutes.set(port.key, minute);
    }
    const sum = (of) => ports.reduce((sum, port) => sum + of(port), 0);
    past.push({ at, bits: sum((port) => port.toBits), drops: sum((port) => port.drops) });
    while (past.length > 0 && at - past[0].at > SHOWN * SECOND) past.shift();
  }
  showSwitch(status, seconds);
  last = { at, status };
}

// The switch.

function showSwitch(status, seconds) {
  const worker = object(status.worker), supervisor = object(status.supervisor);
  const same = last && object(last.status.worker).pid === worker.pid;
  const used = same ? number(worker.cpu_ms) - number(object(last.status.worker).cpu_ms) : 0;
  const cpu = same && seconds > 0 ? percent(Math.max(0, used) / 1000 / seconds) + " of a processor" : "";
  const facts = [
    ["switch", "pid " + number(supervisor.pid) + ", up " + duration(number(supervisor.uptime_s))],
    ["worker", worker.pid ? "pid " + number(worker.pid) + ", up " + duration(number(worker.uptime_s)) : "starting"],
    ["uses", cpu],
    ["standby", worker.standby_pid ? "pid " + number(worker.standby_pid) : "starting"],
    ["restarts", String(number(worker.restarts))],
    ["last death", text(worker.last_death)],
    ["version", text(status.version)],
  ];
  const dl = byId("switch");
  dl.replaceChildren();
  for (const [name, value] of facts.filter(([, value]) => value)) {
    const row = make(dl, "div");
    make(row, "dt", name);
    make(row, "dd", value);
  }
}

// The picture: uplinks above the switch, guests below.

function showPicture() {
  const svg = byId("picture");
  svg.replaceChildren();
  const busiest = [...ports].sort((a, b) => b.bits - a.bits || a.slot - b.slot);
  const pick = (isUplink, most) =>
    busiest.filter((port) => port.isUplink === isUplink).slice(0, most).sort((a, b) => a.slot - b.slot);
  const above = pick(true, UPLINKS_MAX), below = pick(false, GUESTS_MAX);
  const height = (boxes) => Math.ceil(boxes.length / IN_ROW) * 80;
  const middle = height(above) + 20;
  svg.setAttribute("viewBox", "0 0 960 " + (middle + 40 + height(below) + 10));
  const boxes = [...place(above, middle, -1), ...place(below, middle, 1)];
  for (const box of boxes) drawLink(svg, box, middle);
  draw(svg, "rect", { x: 20, y: middle, width: 920, height: 30, rx: 4, class: "switch" });
  draw(svg, "text", { x: 480, y: middle + 20, "text-anchor": "middle", class: "inside" }, "switch");
  for (const box of boxes) drawBox(svg, box);
  const up = ports.filter((port) => port.link === "up").length;
  svg.setAttribute("aria-label", ports.length + " ports, " + up + " up; the table of rates has all figures");
  const hidden = ports.length - boxes.length;
  byId("more").textContent = hidden > 0 ? "and " + hidden + " more ports with less traffic" : "";
}

function place(some, middle, way) {
  return some.map((port, at) => {
    const row = Math.floor(at / IN_ROW), inRow = Math.min(IN_ROW, some.length - row * IN_ROW);
    const x = 480 + ((at % IN_ROW) - (inRow - 1) / 2) * 116;
    return { port, x, y: way > 0 ? middle + 60 + row * 80 : middle - 80 - row * 80 };
  });
}

function drawLink(svg, { port, x, y }, middle) {
  const isDown = port.link !== "up";
  const kind = port.drops > 0 ? " bad" : port.bits > 0 ? " flow" : "";
  const width = port.bits > 0 ? Math.min(10, 1 + Math.log10(1 + port.bits / 1000)) : 1;
  const end = Math.min(940, Math.max(20, x));
  draw(svg, "line", {
    x1: x, y1: y + 25, x2: end, y2: middle + 15, "stroke-width": width, class: "link" + kind + (isDown ? " down" : ""),
  });
}

function drawBox(svg, { port, x, y }) {
  const isBad = port.notes.length > 0 || port.drops > 0;
  draw(svg, "rect", { x: x - 54, y, width: 108, height: 54, rx: 4, class: isBad ? "box bad" : "box" });
  const name = port.name.length > 14 ? port.name.slice(0, 12) + "…" : port.name;
  const line = (at, content, kind) => draw(svg, "text", { x, y: y + at, "text-anchor": "middle", class: kind }, content);
  line(16, name, "name");
  line(31, port.link + (port.drops > 0 ? ", drops" : ""), "faint");
  line(46, "↑ " + figure(port.fromBits) + "  ↓ " + figure(port.toBits), "faint");
}

// The time line.

function showTime(now) {
  const svg = byId("time");
  svg.replaceChildren();
  const x = (at) => 950 - ((now - at) / SECOND / SHOWN) * 940;
  const most = Math.max(1, ...past.map((one) => one.bits)), worst = Math.max(1, ...past.map((one) => one.drops));
  draw(svg, "line", { x1: 10, y1: 120, x2: 950, y2: 120, class: "axis" });
  if (past.length > 0) {
    const points = past.map((one) => x(one.at).toFixed(1) + "," + (120 - (one.bits / most) * 90).toFixed(1));
    const first = x(past[0].at).toFixed(1), end = x(past[past.length - 1].at).toFixed(1);
    draw(svg, "polygon", { points: [first + ",120", ...points, end + ",120"].join(" "), class: "area" });
  }
  for (const one of past.filter((one) => one.drops > 0)) {
    const height = Math.max(2, (one.drops / worst) * 25);
    draw(svg, "rect", { x: (x(one.at) - 1).toFixed(1), y: 122, width: 2, height: height.toFixed(1), class: "drop" });
  }
  const recent = deaths.filter((death) => now - death.at < SHOWN * SECOND);
  for (const death of recent) {
    const at = x(death.at).toFixed(1);
    const mark = draw(svg, "line", { x1: at, y1: 18, x2: at, y2: 120, class: "death" });
    draw(mark, "title", {}, death.cause);
    draw(svg, "text", { x: at, y: 14, "text-anchor": "middle", class: "faint" }, "✕");
  }
  draw(svg, "text", { x: 10, y: 164, class: "faint" }, "10 minutes ago");
  draw(svg, "text", { x: 950, y: 164, "text-anchor": "end", class: "faint" }, "now");
  draw(svg, "text", { x: 10, y: 14, class: "faint" }, "up to " + figure(most) + "bit/s, " + figure(worst) + "drops/s");
  const bits = past.length > 0 ? past[past.length - 1].bits : 0;
  svg.setAttribute("aria-label",
    figure(bits) + "bit/s now, at most " + figure(most) + "bit/s; " + recent.length + " deaths of workers in ten minutes");
}

// Tables.

const COLUMNS = [
  ["Port", (port) => port.name],
  ["Link", (port) => port.link],
  ["Bit/s from", (port) => port.fromBits, (port) => figure(port.fromBits)],
  ["Bit/s to", (port) => port.toBits, (port) => figure(port.toBits)],
  ["Frames/s from", (port) => port.fromFrames, (port) => figure(port.fromFrames)],
  ["Frames/s to", (port) => port.toFrames, (port) => figure(port.toFrames)],
  ["Drops/s", (port) => port.drops, (port) => figure(port.drops)],
  ["Time paused", (port) => port.paused, (port) => percent(port.paused)],
  ["Paused others", (port) => port.others, (port) => percent(port.others)],
  ["Deaths", (port) => port.deaths, (port) => String(port.deaths)],
];

function makeHead() {
  const head = byId("ports").tHead.rows[0];
  COLUMNS.forEach(([name, , shown], column) => {
    const cell = make(head, "th", undefined, shown ? "number" : "");
    cell.scope = "col";
    const button = make(cell, "button", name);
    button.type = "button";
    button.addEventListener("click", () => {
      sorted = { column, down: sorted.column === column ? !sorted.down : Boolean(shown) };
      showPorts();
    });
  });
  make(head, "th", "Last minute").scope = "col";
}

function showPorts() {
  const head = byId("ports").tHead.rows[0], body = byId("ports").tBodies[0];
  COLUMNS.forEach((_, column) => {
    const way = sorted.column === column ? (sorted.down ? "descending" : "ascending") : "none";
    head.cells[column].setAttribute("aria-sort", way);
    const mark = way === "none" ? "" : sorted.down ? " ▾" : " ▴";
    head.cells[column].firstChild.textContent = COLUMNS[column][0] + mark;
  });
  const value = COLUMNS[sorted.column][1];
  const compare = (a, b) => (value(a) < value(b) ? -1 : value(a) > value(b) ? 1 : 0);
  ports.sort((a, b) => (sorted.down ? compare(b, a) : compare(a, b)) || a.slot - b.slot);
  const known = new Set(ports.map((port) => port.key));
  for (const [key, row] of rows) {
    if (!known.has(key)) {
      row.remove();
      rows.delete(key);
    }
  }
  ports.forEach((port, at) => {
    const row = rows.get(port.key) || makeRow(port);
    showRow(row, port);
    if (body.rows[at] !== row) body.insertBefore(row, body.rows[at] || null);
  });
}

function makeRow(port) {
  const row = document.createElement("tr");
  COLUMNS.forEach(([, , shown], column) => {
    const cell = make(row, column === 0 ? "th" : "td", undefined, shown ? "number" : "");
    if (column > 0) return;
    cell.scope = "row";
    make(cell, "span");
    make(cell, "span", undefined, "note");
  });
  const svg = draw(make(row, "td"), "svg", { viewBox: "0 0 120 20", preserveAspectRatio: "none", "aria-hidden": "true" });
  draw(svg, "polyline", { class: "row" });
  rows.set(port.key, row);
  return row;
}

function showRow(row, port) {
  COLUMNS.forEach(([name, value, shown], column) => {
    const cell = column === 0 ? row.cells[0].firstChild : row.cells[column];
    cell.textContent = shown ? shown(port) : value(port);
    if (name === "Drops/s") row.cells[column].classList.toggle("bad", port.drops > 0);
  });
  const minute = minutes.get(port.key) || [];
  const most = Math.max(1, ...minute.map((one) => one.bits));
  const now = minute.length > 0 ? minute[minute.length - 1].at : 0;
  const points = minute.map((one) => {
    const x = 119 - ((now - one.at) / SECOND / MINUTE) * 118;
    return x.toFixed(1) + "," + (19 - (one.bits / most) * 18).toFixed(1);
  });
  row.cells[COLUMNS.length].firstChild.firstChild.setAttribute("points", points.join(" "));
  row.cells[0].lastChild.textContent = port.notes.join("; ");
}

function showDrops() {
  const body = byId("drops").tBodies[0];
  body.replaceChildren();
  const reasons = ports.flatMap((port) => port.reasons).sort((a, b) => b.rate - a.rate || b.count - a.count);
  for (const { port, reason, count, rate } of reasons.slice(0, 100)) {
    const row = make(body, "tr");
    make(row, "th", port).scope = "row";
    make(row, "td", reason);
    make(row, "td", count.toLocaleString("en"), "number");
    make(row, "td", figure(rate), rate > 0 ? "number bad" : "number");
  }
  if (reasons.length === 0) make(make(body, "tr"), "td", "none").colSpan = 4;
}

function showDeaths() {
  const ol = byId("deaths");
  ol.replaceChildren();
  for (const death of [...deaths].reverse()) {
    const gap = death.gap === null ? "" : "; the next one served after " + death.gap + " µs";
    make(ol, "li", death.time + ": " + death.cause + (death.port ? ", serving " + death.port : "") + gap);
  }
  if (deaths.length === 0) make(ol, "li", "none");
}

function deathOf(crash) {
  const port = text(object(crash.fault).port) || text(object(crash.serving).port);
  const gap = typeof crash.gap_us === "number" ? crash.gap_us : null;
  return { at: Date.parse(text(crash.time)) || 0, time: text(crash.time), cause: text(crash.cause), port, gap };
}

// The loop.

async function ask(what) {
  const answer = await fetch(what, { cache: "no-store", signal: AbortSignal.timeout(10 * SECOND) });
  if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
  const json = await answer.json();
  if (json.error) throw new Error(text(json.error));
  // Other windows may have asked a moment before.
  return { json: object(json), at: Date.now() - number(Number(answer.headers.get("x-age-ms"))) };
}

function say(words, isBad) {
  const state = byId("state");
  // Only what is new is read aloud.
  if (state.textContent !== words) state.textContent = words;
  state.className = isBad ? "bad" : "";
}

async function turn() {
  try {
    const { json: status, at } = await ask("status");
    const died = number(object(status.worker).restarts);
    if (died !== restarts) {
      deaths = list((await ask("crashes")).json.crashes).map((crash) => deathOf(object(crash)));
      restarts = died;
      showDeaths();
    }
    if (!last || at - last.at > SAME) take(status, at);
    showPicture();
    showPorts();
    showDrops();
    showTime(Date.now());
    say("live", false);
  } catch (problem) {
    restarts = -1;
    say("no answer: " + problem.message, true);
  }
  // A page that nobody sees asks seldom.
  setTimeout(turn, document.hidden ? 10 * SECOND : SECOND);
}

makeHead();
turn();
