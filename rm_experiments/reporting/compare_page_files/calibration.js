/* Calibration: how often a run is right where it is so confident; below it, how many pairs are there. */

function drawCalibration(root, width) {
  const curves_ = passingRuns().flatMap((run) => {
    const bins = (RUNS[run].calibration?.[store.set] ?? []).filter((bin) => known(bin[0]) && known(bin[1]));
    return bins.length ? [{ run, bins }] : [];
  });
  if (!curves_.length) {
    nothing(root, width, "No run has a calibration curve on this set.");
    return {};
  }
  const height = 430;
  const box = { left: 50, right: width - 14, top: 26, bottom: 292, width };
  const below = { left: box.left, right: box.right, top: 330, bottom: height - 38, width };
  sized(root, width, height);
  const front = curves_.filter((one) => lit.has(one.run));
  const bins = curves_.flatMap((one) => one.bins);
  const shares = extent(bins.map((bin) => bin[1]));
  const x = linear([0.5, 1], [box.left + 14, box.right - 4]);
  const y = linear(padded([Math.min(0.5, shares[0]), 1], 0.03), [box.bottom, box.top]);
  const most = Math.max(1, ...(front.length ? front : curves_).flatMap((one) => one.bins.map((bin) => bin[2] ?? 0)));
  const n = linear([0, most * 1.08], [below.bottom, below.top]);
  const ticks = ticksOf(x, 5, true);
  yAxis(root, y, box, { ...ticksOf(y, 6, true), title: "Share of pairs ranked right" });
  yAxis(root, n, below, { ticks: niceTicks(0, most, 2), text: stepText });
  root.append(svg("text", { class: "title", x: 2, y: below.top - 12 }, fit("Pairs in the bin", width - 10)));
  xAxis(root, x, below, { ...ticks, title: "Confidence: sigmoid(|margin|), mean of the bin" });
  root.append(svg("g", { class: "axis" }, ...ticks.ticks.map((tick) => svg("path", { class: "grid", d: `M${x(tick)} ${box.top}V${box.bottom}` }))));
  const inside = clip(root, box);
  inside.append(svg("path", { class: "diagonal", d: `M${x(0.5)} ${y(0.5)}L${x(1)} ${y(1)}` }));
  const path = (points, scale, column) => points.map((bin, at) => `${at ? "L" : "M"}${x(bin[0]).toFixed(1)} ${scale(bin[column]).toFixed(1)}`).join("");
  const crowd = curves_.length > 60 ? " crowd" : "";
  for (const { run, bins: own } of curves_) if (!lit.has(run)) inside.append(svg("path", { class: `line faint${crowd}`, "data-run": run, d: path(own, y, 1) }));
  const counts = clip(root, below);
  for (const { run, bins: own } of front) {
    const slot = lit.get(run);
    const dashes = SLOT_DASHES[slot];
    inside.append(svg("path", { class: `line lit s${slot}`, "data-run": run, "stroke-dasharray": dashes, d: path(own, y, 1) }));
    inside.append(...own.map((bin) => mark(slot, x(bin[0]), y(bin[1]), 3)));
    const counted = own.filter((bin) => known(bin[2]));
    counts.append(svg("path", { class: `line lit s${slot}`, "data-run": run, "stroke-dasharray": dashes, d: path(counted, n, 2) }));
    counts.append(...counted.map((bin) => mark(slot, x(bin[0]), n(bin[2]), 2.5)));
  }
  return {
    trace: (run) => curves_.filter((one) => one.run === run).map((one) => path(one.bins, y, 1))[0],
    pick: (px, py) => pickBin(curves_, px, py, x, py > below.top - 6 ? n : y, py > below.top - 6 ? 2 : 1),
  };
}

function pickBin(all, px, py, x, y, column) {
  let best = null;
  for (const { run, bins } of all) {
    if (column === 2 && !lit.has(run)) continue;
    for (const bin of bins) {
      const distance = Math.hypot(x(bin[0]) - px, y(bin[column]) - py) - (lit.has(run) ? 6 : 0);
      if (distance < 22 && (!best || distance < best.distance)) best = { run, bin, distance };
    }
  }
  if (!best) return null;
  const [confidence, share, pairs] = best.bin;
  return { run: best.run, lines: [RUNS[best.run].label, `confidence ${percent(confidence)}, right ${percent(share)}, n = ${count(pairs)}`, `ECE ${fixed(runMetric(best.run, "ece"), 3)}, Brier ${fixed(runMetric(best.run, "brier"), 3)}`] };
}

/* What the curves come to, of the highlighted runs. */
function drawCalibrationTable() {
  const rows = shownEntries().map((entry) => {
    const value = (key) => fixed(mean(runsOf(entry).map((run) => runMetric(run, key))), 3);
    return el("tr", {}, el("th", { scope: "row" }, swatch(entry.slot), nameOf(labelOf(entry), { class: "name" })), el("td", {}, value("ece")), el("td", {}, value("brier")));
  });
  byId("calibration-rows").replaceChildren(...rows);
}

function startCalibration() {
  const label = () => `Calibration curves of ${many(passing.size, "run")}. ${byId("keys").textContent}`;
  chart(byId("calibration"), { label, topics: ["set", "filter", "light"], draw: drawCalibration });
  on(["set", "light"], drawCalibrationTable);
  drawCalibrationTable();
}
