/* What the charts share: their box, axes, marks of highlighted runs, and the keys. */

const SLOT_DASHES = ["", "7 3", "2 3", "9 3 2 3", "14 4", "4 2 1 2"];

/* A mark of highlighted runs; every slot has its own shape beside its colour and dashes. */
function markPath(slot, x, y, r = 4) {
  const d = r * 1.2;
  return [
    `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0Z`,
    `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`,
    `M${x} ${y - d}L${x + d} ${y + r}H${x - d}Z`,
    `M${x} ${y - 1.4 * r}L${x + 1.4 * r} ${y}L${x} ${y + 1.4 * r}L${x - 1.4 * r} ${y}Z`,
    `M${x} ${y + d}L${x + d} ${y - r}H${x - d}Z`,
    `M${x - r} ${y - r}L${x + r} ${y + r}M${x - r} ${y + r}L${x + r} ${y - r}`,
  ][slot];
}
const mark = (slot, x, y, r) => svg("path", { class: `mark s${slot}`, d: markPath(slot, x, y, r) });

/* A short line with its mark, as it stands in the charts. */
function swatch(slot) {
  if (slot === undefined) return svg("svg", { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" });
  return svg(
    "svg", { class: "swatch", viewBox: "0 0 30 12", width: 30, height: 12, "aria-hidden": "true" },
    svg("path", { class: `line lit s${slot}`, d: "M1 6H29", "stroke-dasharray": SLOT_DASHES[slot] }),
    mark(slot, 15, 6, 3.5),
  );
}

/* An SVG as wide as its host, drawn anew when the host's width or one of the topics changes.
   `draw(root, width)` fills it and returns {pick(x, y), trace(run)}: what is near, and a path over a run. */
function chart(host, { label, topics, draw, walk = true }) {
  const root = svg("svg", { class: "chart", role: "img", tabindex: 0 });
  host.append(root);
  let width = 0;
  let drawn = {};
  const redraw = () => {
    if (!width) return;
    const least = host.dataset.least ? Number(host.dataset.least) : 0;
    root.replaceChildren();
    root.setAttribute("aria-label", visibleText(typeof label === "function" ? label() : label));
    drawn = draw(root, Math.max(width, least)) ?? {};
    drawTrace(hovered);
  };
  const drawTrace = (run) => {
    root.querySelector(".trace")?.remove();
    const d = run !== null && drawn.trace ? drawn.trace(run) : null;
    if (d) root.append(svg("path", { class: "trace", d }));
  };
  const resize = () => {
    const now = Math.floor(host.clientWidth);
    if (now === width || now === 0) return;
    width = now;
    redraw();
  };
  new ResizeObserver(resize).observe(host);
  width = Math.floor(host.clientWidth);
  on(topics, redraw);
  hoverListeners.push(drawTrace);
  root.addEventListener("pointermove", (event) => {
    if (event.buttons) return;
    const found = drawn.pick?.(...pointer(root, event));
    root.classList.toggle("over", Boolean(found));
    hover(found?.run ?? null);
    if (found) showTip(event, found.lines);
    else hideTip();
  });
  root.addEventListener("pointerleave", () => {
    hover(null);
    hideTip();
  });
  root.addEventListener("click", (event) => {
    const found = drawn.pick?.(...pointer(root, event));
    if (found?.run !== undefined) toggleRun(found.run);
    else if (found?.pair !== undefined) showPair(found.pair);
  });
  if (walk) walkWithKeys(root);
  redraw();
  return root;
}

/* Up and down go from run to run, the best first; Enter highlights. */
function walkWithKeys(root) {
  root.setAttribute("aria-describedby", "keys");
  root.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (event.target !== root || (!step && event.key !== "Enter" && event.key !== " ")) return;
    event.preventDefault();
    if (!step) {
      if (hovered !== null) toggleRun(hovered);
      return;
    }
    const order = byMetric(passingRuns(), "accuracy");
    if (!order.length) return;
    const at = order.indexOf(hovered);
    const next = order[at < 0 ? 0 : (at + step + order.length) % order.length];
    hover(next);
    say(`${RUNS[next].label}, accuracy ${percent(runMetric(next, "accuracy"))}`);
  });
  root.addEventListener("blur", () => hover(null));
}

const byMetric = (runs, key) => [...runs].sort((one, other) => (runMetric(other, key) ?? -Infinity) - (runMetric(one, key) ?? -Infinity));

function sized(root, width, height) {
  root.setAttribute("viewBox", `0 0 ${width} ${height}`);
  root.setAttribute("width", width);
  root.setAttribute("height", height);
}

/* Ticks and grid lines; `ticks` are left out where their texts would touch. */
function xAxis(root, scale, box, { ticks, text, title }) {
  const group = svg("g", { class: "axis" });
  let free = -Infinity;
  for (const tick of ticks) {
    const x = scale(tick);
    const label = text(tick);
    const half = textWidth(label) / 2;
    group.append(svg("path", { class: "grid", d: `M${x} ${box.top}V${box.bottom}` }));
    if (x - half < free) continue;
    free = x + half + 8;
    const inside = Math.min(Math.max(x, half + 1), box.width - half - 1);
    group.append(svg("text", { x: inside, y: box.bottom + 15, "text-anchor": "middle" }, label));
  }
  group.append(svg("text", { class: "title", x: (box.left + box.right) / 2, y: box.bottom + 31, "text-anchor": "middle" }, fitTitle(title, box.width - 10)));
  root.append(group);
}
function yAxis(root, scale, box, { ticks, text, title }) {
  const group = svg("g", { class: "axis" });
  for (const tick of ticks) {
    const y = scale(tick);
    group.append(svg("path", { class: "grid", d: `M${box.left} ${y}H${box.right}` }));
    group.append(svg("text", { x: box.left - 6, y: y + 4, "text-anchor": "end" }, text(tick)));
  }
  if (title) group.append(svg("text", { class: "title", x: 2, y: 12 }, fitTitle(title, box.width - 10)));
  root.append(group);
}

/* Ticks of a linear scale, their texts with the digits they need. */
function ticksOf(scale, most, isPercent) {
  const ticks = niceTicks(Math.min(...scale.domain), Math.max(...scale.domain), most);
  const digits = tickDigits(ticks, isPercent ? 100 : 1);
  return { ticks, text: (value) => (isPercent ? percent(value, digits) : fixed(value, digits)) };
}

function nothing(root, width, text) {
  sized(root, width, 80);
  root.append(svg("text", { class: "nothing", x: width / 2, y: 44, "text-anchor": "middle" }, fit(text, width - 20)));
}

let clips = 0;
function clip(root, box) {
  clips += 1;
  const id = `clip${clips}`;
  root.append(svg("clipPath", { id }, svg("rect", { x: box.left, y: box.top, width: Math.max(0, box.right - box.left), height: box.bottom - box.top })));
  const inside = svg("g", { "clip-path": `url(#${id})` });
  root.append(inside);
  return inside;
}

/* A small bar for tables: the interval, the value, and a line at a reference. */
function intervalBar({ low, high, value, reference, slot, label, band }, domain, width = 150, height = 18) {
  const x = linear(domain, [5, width - 5]);
  const inside = (v) => Math.min(width - 2, Math.max(2, x(v)));
  const root = svg("svg", { class: "interval", viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": label });
  const y = height / 2;
  if (known(band)) root.append(svg("rect", { class: "band", x: inside(-band), y: 0, width: Math.max(0, inside(band) - inside(-band)), height }));
  if (known(reference)) root.append(svg("path", { class: "reference", d: `M${x(reference)} 0V${height}` }));
  const paint = slot === undefined ? "plain" : `s${slot}`;
  if (known(low) && known(high)) root.append(svg("path", { class: `whisker ${paint}`, d: `M${inside(low)} ${y}H${inside(high)}M${inside(low)} ${y - 4}v8M${inside(high)} ${y - 4}v8` }));
  if (known(value)) root.append(slot === undefined ? svg("circle", { class: "mark plain", cx: inside(value), cy: y, r: 3.5 }) : mark(slot, inside(value), y, 4));
  return root;
}
