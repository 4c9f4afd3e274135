/* Overlaid curves: accuracy and loss of the set, and the training loss, over the steps. */

const curves = { log: false, smooth: 0 };
const MOST_POINTS = 400;

const PANELS = [
  { id: "curve-accuracy", key: "accuracy", title: "Evaluation accuracy", isPercent: true, band: true, reference: [0.5, "chance"] },
  { id: "curve-loss", key: "loss", title: "Evaluation loss", reference: [Math.LN2, "ln 2"] },
  { id: "curve-train", key: "loss", train: true, title: "Training loss", reference: [Math.LN2, "ln 2"] },
];

/* {run, points: [[step, value, low, high]]} of every run that passes. */
function linesOf(panel) {
  return passingRuns().flatMap((run) => {
    const curve = RUNS[run].curves?.[panel.train ? "train" : store.set];
    if (!curve?.step || !curve[panel.key]) return [];
    let points = curve.step.flatMap((step, at) => {
      const value = curve[panel.key][at];
      return known(value) && known(step) ? [[step, value, curve.low?.[at] ?? null, curve.high?.[at] ?? null]] : [];
    });
    if (panel.train && curves.smooth > 0) points = smoothed(points, curves.smooth);
    const stride = Math.ceil(points.length / MOST_POINTS);
    if (stride > 1) points = points.filter((_, at) => at % stride === 0 || at === points.length - 1);
    return points.length ? [{ run, points }] : [];
  });
}

/* Exponential moving average that starts without a bias towards 0. */
function smoothed(points, keep) {
  let sum = 0;
  let weight = 0;
  return points.map(([step, value]) => {
    sum = keep * sum + (1 - keep) * value;
    weight = keep * weight + (1 - keep);
    return [step, sum / weight, null, null];
  });
}

function yDomain(panel, lines) {
  const values = lines.flatMap((line) => line.points.map((point) => point[1]));
  let [low, high] = robustExtent(values);
  if (panel.band) {
    // Of all runs, whichever are highlighted: a click must not move the lines under the pointer.
    const bands = extent(lines.flatMap((line) => line.points.flatMap((point) => [point[2], point[3]])));
    if (bands) [low, high] = [Math.max(Math.min(low, bands[0]), low - (high - low) / 3), Math.min(Math.max(high, bands[1]), high + (high - low) / 3)];
  }
  return [padded([low, high], 0.04), values.filter((value) => value < low || value > high).length];
}

function drawCurves(panel, root, width) {
  const lines = linesOf(panel);
  if (!lines.length) {
    nothing(root, width, passing.size ? (panel.train ? "No run has a training curve." : "No run has this curve on this set.") : "No run passes the filter.");
    return {};
  }
  const height = 290;
  const box = { left: 50, right: width - 12, top: 26, bottom: height - 38, width };
  sized(root, width, height);
  const [, most] = extent(lines.map((line) => line.points[line.points.length - 1][0]));
  const least = Math.min(...lines.map((line) => line.points[0][0]));
  const unit = Math.min(...lines.flatMap((line) => line.points.map((point) => point[0]).filter((step) => step > 0)), most || 1);
  const from = curves.log ? 0 : Math.min(least, most);
  const x = curves.log ? logFromZero([0, Math.max(most, unit)], [box.left, box.right], unit) : linear([from, most === from ? from + 1 : most], [box.left, box.right]);
  const [domain, outside] = yDomain(panel, lines);
  const y = linear(domain, [box.bottom, box.top]);
  const title = `${panel.title}${panel.train && curves.smooth > 0 ? ", smoothed" : ""}${outside ? ` (${many(outside, "value")} beyond the axis)` : ""}`;
  yAxis(root, y, box, { ...ticksOf(y, 6, panel.isPercent), title });
  const ticks = curves.log ? logTicks(most, unit) : niceTicks(x.domain[0], x.domain[1], Math.floor(width / 80)).filter((tick) => Number.isInteger(tick));
  xAxis(root, x, box, { ticks, text: stepText, title: curves.log ? "optimizer step (log scale)" : "optimizer step" });
  const inside = clip(root, box);
  const [reference, name] = panel.reference;
  if (reference > domain[0] && reference < domain[1]) {
    inside.append(svg("path", { class: "reference", d: `M${box.left} ${y(reference)}H${box.right}` }));
    inside.append(svg("text", { class: "referencename", x: box.right - 4, y: y(reference) - 4, "text-anchor": "end" }, name));
  }
  const path = (points) => points.map((point, at) => `${at ? "L" : "M"}${x(point[0]).toFixed(1)} ${y(point[1]).toFixed(1)}`).join("");
  // A run with one point has no line to see.
  const single = (points) => (points.length === 1 ? `M${x(points[0][0]) - 3} ${y(points[0][1])}h6` : path(points));
  const others = lines.filter((line) => !lit.has(line.run));
  const front = lines.filter((line) => lit.has(line.run));
  const crowd = others.length > 60 ? " crowd" : "";
  for (const line of others) inside.append(svg("path", { class: `line${crowd}`, "data-run": line.run, d: single(line.points) }));
  // Many bands lie on each other; together they stay lighter than the lines.
  const paint = Math.min(0.16, 0.35 / front.length);
  if (panel.band) for (const line of front) inside.append(svg("path", { class: `area s${lit.get(line.run)}`, "fill-opacity": paint.toFixed(3), d: bandPath(line.points, x, y) }));
  for (const line of front) {
    const slot = lit.get(line.run);
    inside.append(svg("path", { class: `line lit s${slot}`, "data-run": line.run, "stroke-dasharray": SLOT_DASHES[slot], d: single(line.points) }));
    const [step, value] = line.points[line.points.length - 1];
    inside.append(mark(slot, Math.min(x(step), box.right - 5), y(value), 4));
  }
  return { pick: (px, py) => pickLine(panel, lines, x, y, px, py, box), trace: (run) => lines.filter((line) => line.run === run).map((line) => single(line.points))[0] };
}

function bandPath(points, x, y) {
  const there = points.filter((point) => known(point[2]) && known(point[3]));
  if (there.length < 2) return "";
  const up = there.map((point) => `${x(point[0]).toFixed(1)} ${y(point[3]).toFixed(1)}`);
  const down = there.map((point) => `${x(point[0]).toFixed(1)} ${y(point[2]).toFixed(1)}`).reverse();
  return `M${up.join("L")}L${down.join("L")}Z`;
}

/* The line that is nearest at the pointer's step; highlighted ones win when it is close. */
function pickLine(panel, lines, x, y, px, py, box) {
  if (px < box.left - 8 || px > box.right + 8 || py < box.top - 8 || py > box.bottom + 8) return null;
  let best = null;
  for (const { run, points } of lines) {
    let at = points.findIndex((point) => x(point[0]) >= px);
    if (at < 0) at = points.length - 1;
    const [after, before] = [points[at], points[Math.max(0, at - 1)]];
    const [x0, x1] = [x(before[0]), x(after[0])];
    const share = x1 > x0 ? Math.min(1, Math.max(0, (px - x0) / (x1 - x0))) : 1;
    const away = Math.abs(y(before[1]) + share * (y(after[1]) - y(before[1])) - py) + Math.max(0, px - x1) + Math.max(0, x0 - px);
    const distance = away - (lit.has(run) ? 3 : 0);
    if (away < 26 && (!best || distance < best.distance)) best = { run, distance, point: px - x0 < x1 - px ? before : after };
  }
  if (!best) return null;
  const text = (value) => (panel.isPercent ? percent(value, 2) : fixed(value, 4));
  const [step, value, low, high] = best.point;
  return { run: best.run, lines: [RUNS[best.run].label, `step ${count(step)}: ${text(value)}`, known(low) && known(high) ? `95% interval ${text(low)} to ${text(high)}` : ""] };
}

function startCurves() {
  for (const panel of PANELS) {
    const name = () => `${panel.title} over the steps of ${many(passing.size, "run")}. ${byId("keys").textContent}`;
    chart(byId(panel.id), { label: name, topics: ["set", "filter", "light", "curves"], draw: (root, width) => drawCurves(panel, root, width) });
  }
  byId("log-x").addEventListener("change", (event) => {
    curves.log = event.target.checked;
    change("curves");
  });
  byId("smooth").addEventListener("input", (event) => {
    curves.smooth = Number(event.target.value);
    byId("smooth-value").textContent = curves.smooth.toFixed(2);
    change("curves");
  });
}
