/* Parallel coordinates over the options that were swept, and a metric. A brush on an axis filters the runs everywhere. */

const parallel = { metric: "accuracy", axes: [], drag: null };
const NUM_SHADES = 9;
const AXIS_REACH = 12;

function setAxes() {
  parallel.axes = axesOf(parallel.metric);
  filters[0] = (run) => [...store.brushes].every(([key, brush]) => {
    const axis = parallel.axes.find((one) => one.key === key);
    return !axis || axis.passes(brush, axis.values[run]);
  });
}

function drawParallel(root, hostWidth) {
  const { axes } = parallel;
  const [left, right, top, height] = [64, 96, 44, 380];
  const bottom = height - 16;
  const gap = axes.length > 1 ? Math.max(112, (hostWidth - left - right) / (axes.length - 1)) : 0;
  const width = Math.max(hostWidth, left + right + gap * (axes.length - 1));
  sized(root, width, height);
  const xs = axes.map((_, at) => left + gap * at);
  const y = linear([0, 1], [bottom, top]);
  const spread = axes.map((axis) => spreadOf(axis));
  const place = (axis, run) => y(axis.t(axis.values[run])) + (spread[axes.indexOf(axis)]?.[run] ?? 0);
  const path = (run) => axes.map((axis, at) => `${at ? "L" : "M"}${xs[at].toFixed(1)} ${place(axis, run).toFixed(1)}`).join("");
  const metric = axes[axes.length - 1];
  const range = extent(metric.values.filter((_, run) => passing.has(run))) ?? [0, 1];
  const shade = (run) => {
    const value = metric.values[run];
    if (!known(value)) return "none";
    return `q${Math.min(NUM_SHADES - 1, Math.floor(((value - range[0]) / (range[1] - range[0] || 1)) * NUM_SHADES))}`;
  };
  const chosen = store.entries.length > 0;
  const order = byMetric(RUNS.map((run) => run.id), parallel.metric).reverse();
  const crowd = RUNS.length > 60 ? " crowd" : "";
  const layers = [[], [], []];
  for (const run of order) {
    const isLit = chosen && lit.has(run) && passing.has(run);
    const kind = !passing.has(run) ? "line out" : isLit ? `line lit s${lit.get(run)}` : chosen ? `line${crowd}` : `line shade ${shade(run)}${crowd}`;
    layers[!passing.has(run) ? 0 : isLit ? 2 : 1].push(svg("path", { class: kind, "data-run": run, "stroke-dasharray": isLit ? SLOT_DASHES[lit.get(run)] : null, d: path(run) }));
    if (isLit) layers[2].push(...axes.map((axis, at) => mark(lit.get(run), xs[at], place(axis, run), 3.5)));
  }
  for (const layer of layers) root.append(svg("g", {}, ...layer));
  axes.forEach((axis, at) => root.append(drawAxis(axis, xs[at], y, { top, bottom, gap, first: at === 0, last: at === axes.length - 1, right })));
  drawShades(range);
  return {
    pick: (px, py) => pickParallel(xs, place, px, py, y),
    trace: (run) => path(run),
    xs, y,
  };
}

/* Pixels by which runs with the same value of an option lie beside each other, the best on top: on one point they would
   hide one another, and the last one drawn would give all of them its colour. */
function spreadOf(axis) {
  const same = new Map();
  for (const { id } of RUNS) same.set(axis.t(axis.values[id]), [...(same.get(axis.t(axis.values[id])) ?? []), id]);
  if (axis.key === "metric" || same.size > 12) return null;
  const room = Math.min(18, 180 / same.size);
  const places = [];
  for (const runs of same.values()) {
    const order = byMetric(runs, parallel.metric);
    order.forEach((run, at) => (places[run] = order.length > 1 ? room * (at / (order.length - 1) - 0.5) : 0));
  }
  return places;
}

function drawAxis(axis, x, y, { top, bottom, gap, first, last, right }) {
  const room = last ? right - 12 : gap - 16;
  const group = svg("g", { class: "pcaxis" });
  group.append(svg("path", { class: "rail", d: `M${x} ${top}V${bottom}` }));
  let free = Infinity;
  for (const tick of axis.ticks) {
    const at = y(tick.t);
    if (at > free) continue;
    free = at - 15;
    group.append(svg("path", { class: "rail", d: `M${x - 3} ${at}h6` }));
    group.append(svg("text", { class: "halo", x: x + 7, y: at + 4 }, fit(tick.text, room)));
  }
  const name = axis.key === "metric" ? `${axis.title} (${store.set})` : axis.title;
  const wide = Math.min(first ? 120 : gap - 8, last ? 170 : gap - 8);
  const note = axis.kind === "log" ? "log" : "";
  group.append(svg("text", { class: "title halo", x, y: 16, "text-anchor": "middle" }, svg("title", {}, oneLine(name)), fit(axis.key === "metric" ? name : shortKey(name, wide), wide)));
  if (note) group.append(svg("text", { class: "halo", x, y: 31, "text-anchor": "middle" }, note));
  const brush = store.brushes.get(axis.key);
  const [from, to] = brush ? axis.span(brush) : [0, 0];
  if (brush) group.append(svg("rect", { class: "brush", x: x - 8, width: 16, y: y(to) - 2, height: Math.max(4, y(from) - y(to) + 4) }));
  const count_ = axis.values.filter((value) => !brush || axis.passes(brush, value)).length;
  group.append(
    svg("rect", {
      class: "handle", "data-axis": axis.key, x: x - AXIS_REACH, width: 2 * AXIS_REACH, y: top - 6, height: bottom - top + 12, tabindex: 0,
      role: "slider", "aria-orientation": "vertical", "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(50 * (from + to)),
      "aria-label": `filter by ${oneLine(axis.title)}`, "aria-valuetext": brush ? `${many(count_, "run")} within` : "no filter",
    }),
  );
  return group;
}

/* `optimizer.lr` as `lr` where there is no room for more. */
function shortKey(key, width) {
  const line = oneLine(key);
  return textWidth(line) <= width || !line.includes(".") ? line : `\u2026${line.slice(line.lastIndexOf(".") + 1)}`;
}

function drawShades(range) {
  const { text, title } = METRICS[parallel.metric];
  byId("shades").replaceChildren(
    `${title}: ${text(range[0])} `,
    svg("svg", { viewBox: "0 0 108 10", width: 108, height: 10, "aria-hidden": "true" }, ...Array.from({ length: NUM_SHADES }, (_, at) => svg("rect", { class: `fill q${at}`, x: at * 12, y: 0, width: 12, height: 10 }))),
    ` ${text(range[1])}`,
  );
  byId("shades").hidden = store.entries.length > 0;
}

function pickParallel(xs, place, px, py, y) {
  if (xs.some((x) => Math.abs(x - px) <= AXIS_REACH) || px < xs[0] || px > xs[xs.length - 1] || py > y(0) + 8) return null;
  const at = xs.findIndex((x) => x > px) - 1;
  const share = (px - xs[at]) / (xs[at + 1] - xs[at]);
  let best = null;
  for (const run of passing) {
    const [from, to] = [place(parallel.axes[at], run), place(parallel.axes[at + 1], run)];
    const distance = Math.abs(from + share * (to - from) - py) - (lit.has(run) && store.entries.length ? 2 : 0);
    if (distance < 9 && (!best || distance < best.distance)) best = { run, distance };
  }
  if (!best) return null;
  const metric = METRICS[parallel.metric];
  return { run: best.run, lines: [RUNS[best.run].label, `${metric.title} ${metric.text(runMetric(best.run, parallel.metric))}`] };
}

/* Drag on an axis sets its brush, a click there ends it; so do the keys. */
function brushWithPointer(root) {
  let dragged = false;
  const placeOf = (event) => Math.min(1.05, Math.max(-0.05, linear([364, 44], [0, 1])(pointer(root, event)[1])));
  root.addEventListener("pointerdown", (event) => {
    dragged = false;
    const key = event.target.dataset?.axis;
    if (!key) return;
    event.preventDefault();
    parallel.drag = { key, from: placeOf(event), moved: false };
    root.setPointerCapture(event.pointerId);
  });
  root.addEventListener("pointermove", (event) => {
    const { drag } = parallel;
    if (!drag) return;
    const to = placeOf(event);
    if (Math.abs(to - drag.from) < 0.012 && !drag.moved) return;
    drag.moved = true;
    setBrush(drag.key, Math.min(drag.from, to), Math.max(drag.from, to), "brush");
  });
  const end = () => {
    if (!parallel.drag) return;
    dragged = true;
    if (!parallel.drag.moved) store.brushes.delete(parallel.drag.key);
    parallel.drag = null;
    refilter();
  };
  root.addEventListener("pointerup", end);
  root.addEventListener("pointercancel", end);
  // The click that ends a drag highlights no line.
  const swallow = (event) => {
    if (dragged) event.stopImmediatePropagation();
    dragged = false;
  };
  root.addEventListener("click", swallow, true);
}
function setBrush(key, from, to, topic) {
  const axis = parallel.axes.find((one) => one.key === key);
  store.brushes.set(key, axis.brush(from, to));
  if (topic) change(topic);
  else refilter();
}
function brushWithKeys(root) {
  root.addEventListener("keydown", (event) => {
    const key = event.target.dataset?.axis;
    if (!key) return;
    const axis = parallel.axes.find((one) => one.key === key);
    const now = store.brushes.get(key);
    const [from, to] = now ? axis.span(now) : [0.75, 1];
    const by = { ArrowUp: [0.05, 0.05], ArrowDown: [-0.05, -0.05], "+": [-0.05, 0.05], "-": [0.05, -0.05], Enter: [0, 0] }[event.key];
    if (event.key === "Delete" || event.key === "Backspace") {
      store.brushes.delete(key);
      refilter();
    } else if (by) setBrush(key, Math.max(-0.05, from + by[0]), Math.min(1.05, Math.max(from + by[0] + 0.02, to + by[1])));
    else return;
    event.preventDefault();
    requestAnimationFrame(() => requestAnimationFrame(() => [...root.querySelectorAll("[data-axis]")].find((one) => one.dataset.axis === key)?.focus()));
  });
}

function startParallel() {
  setAxes();
  const label = () => `Parallel coordinates of ${many(RUNS.length, "run")} over ${parallel.axes.length} axes. ${byId("keys").textContent}`;
  on(["set"], () => {
    store.brushes.delete("metric");
    setAxes();
    refilter();
  });
  const root = chart(byId("parallel"), { label, topics: ["set", "filter", "light", "metric", "brush"], draw: drawParallel });
  // It holds sliders, which a picture may not.
  root.setAttribute("role", "group");
  brushWithPointer(root);
  brushWithKeys(root);
  fillSelect(byId("choose-metric"), Object.entries(METRICS).map(([key, { title }]) => [key, title]), parallel.metric);
  byId("choose-metric").addEventListener("change", (event) => {
    parallel.metric = event.target.value;
    store.brushes.delete("metric");
    setAxes();
    refilter();
    change("metric");
  });
  const constant = constantOptions();
  byId("constant").replaceChildren(...(constant.length ? ["The same in every run: ", ...constant.flatMap((key, at) => [at ? ", " : "", nameOf(`${key}=${plain(RUNS[0]?.options?.[key])}`)]), "."] : []));
}
