/* Accuracy by subset: a tick per run, highlighted runs with their intervals. */

const subsets = { order: "given" };
const SUBSET_ORDERS = { given: "as in the data", pairs: "most pairs first", accuracy: "hardest first", spread: "runs differ most first" };

function subsetMetric(run, name, key) {
  return name === null ? runMetric(run, key) : runMetric(run, `${name}_${key}`);
}

function subsetRows() {
  const runs = passingRuns();
  const rows = [null, ...(setInfo().subsets ?? [])].map((name) => {
    const values = runs.map((run) => subsetMetric(run, name, "accuracy"));
    const range = extent(values);
    const pairs = name === null ? setInfo().num_pairs : extent(runs.map((run) => subsetMetric(run, name, "num_pairs")))?.[1];
    return { name, values, runs, pairs, mean: mean(values), spread: range ? range[1] - range[0] : 0 };
  });
  const by = { pairs: (row) => -(row.pairs ?? 0), accuracy: (row) => row.mean ?? 2, spread: (row) => -row.spread }[subsets.order];
  const [whole, ...others] = rows;
  return [whole, ...(by ? others.sort((one, other) => by(one) - by(other)) : others)];
}

function drawSubsets(root, width) {
  const rows = subsetRows();
  if (rows.every((row) => row.mean === null)) {
    nothing(root, width, "No run has an accuracy on this set.");
    return {};
  }
  const entries = shownEntries();
  const each = Math.max(26, 11 * entries.length + 10);
  const box = { left: 140, right: width - 74, top: 8, width };
  box.bottom = box.top + each * rows.length;
  sized(root, width, box.bottom + 40);
  // Of all runs, whichever are highlighted: a click must not move the ticks under the pointer.
  const bounds = passingRuns().flatMap((run) => rows.flatMap((row) => ["accuracy_ci_low", "accuracy_ci_high"].map((key) => subsetMetric(run, row.name, key))));
  const x = linear(padded(extent([...rows.flatMap((row) => row.values), ...bounds]), 0.03), [box.left, box.right]);
  const scale = ticksOf(x, Math.max(2, Math.floor((box.right - box.left) / 64)), true);
  xAxis(root, x, box, { ...scale, title: "Accuracy" });
  if (x.domain[0] < 0.5 && x.domain[1] > 0.5) root.append(svg("path", { class: "reference", d: `M${x(0.5)} ${box.top}V${box.bottom}` }));
  const dots = [];
  rows.forEach((row, at) => {
    const top = box.top + at * each;
    const middle = top + each / 2;
    root.append(svg("path", { class: "rowline", d: `M0 ${top}H${width}` }));
    const title = row.name === null ? "all pairs" : row.name;
    root.append(svg("text", { class: row.name === null ? "title" : "", x: 4, y: middle + 4 }, svg("title", {}, oneLine(title)), fit(title, box.left - 14)));
    root.append(svg("text", { x: width - 4, y: middle + 4, "text-anchor": "end" }, `n = ${stepText(row.pairs ?? 0)}`));
    const ticks = row.runs.map((run, index) => (known(row.values[index]) && !lit.has(run) ? `M${x(row.values[index]).toFixed(1)} ${top + 5}V${top + each - 5}` : "")).join("");
    root.append(svg("path", { class: "ticks", d: ticks }));
    row.runs.forEach((run, index) => {
      if (known(row.values[index]) && !lit.has(run)) dots.push({ run, row, x: x(row.values[index]), y: middle, tall: each / 2 });
    });
    entries.forEach((entry, index) => drawEntry(root, entry, row, x, middle + (index - (entries.length - 1) / 2) * 11, dots));
  });
  return { pick: (px, py) => pickSubset(dots, px, py), trace: (run) => dots.filter((dot) => dot.run === run).map((dot) => `M${dot.x} ${dot.y - 8}v16`).join("") };
}

/* One line per entry: its runs' intervals and dots; a bar at their mean where there are several. */
function drawEntry(root, entry, row, x, y, dots) {
  const runs = runsOf(entry).filter((run) => passing.has(run) && known(subsetMetric(run, row.name, "accuracy")));
  for (const run of runs) {
    const value = x(subsetMetric(run, row.name, "accuracy"));
    const [low, high] = ["accuracy_ci_low", "accuracy_ci_high"].map((key) => subsetMetric(run, row.name, key));
    const group = svg("g", { "data-run": run, class: runs.length > 2 ? "seeds" : "" });
    if (known(low) && known(high)) group.append(svg("path", { class: `whisker s${entry.slot}`, d: `M${x(low)} ${y}H${x(high)}` }));
    group.append(mark(entry.slot, value, y, 3.5));
    root.append(group);
    dots.push({ run, row, x: value, y, tall: 6 });
  }
  if (runs.length > 1) {
    const middle = x(mean(runs.map((run) => subsetMetric(run, row.name, "accuracy"))));
    root.append(svg("path", { class: "meanbar", d: `M${middle} ${y - 5}v10` }));
  }
}

function pickSubset(dots, px, py) {
  let best = null;
  for (const dot of dots) {
    if (Math.abs(dot.y - py) > dot.tall) continue;
    const distance = Math.abs(dot.x - px) + 0.5 * Math.abs(dot.y - py) - (lit.has(dot.run) ? 4 : 0);
    if (distance < 12 && (!best || distance < best.distance)) best = { ...dot, distance };
  }
  if (!best) return null;
  const value = (key) => subsetMetric(best.run, best.row.name, key);
  const interval = known(value("accuracy_ci_low")) ? `, 95% interval ${percent(value("accuracy_ci_low"))} to ${percent(value("accuracy_ci_high"))}` : "";
  return { run: best.run, lines: [RUNS[best.run].label, `${best.row.name === null ? "all pairs" : oneLine(best.row.name)}: ${percent(value("accuracy"))}${interval}`, `n = ${count(best.row.pairs)}`] };
}

function startSubsets() {
  const label = () => `Accuracy by subset of ${many(passing.size, "run")}. ${byId("keys").textContent}`;
  chart(byId("subsets"), { label, topics: ["set", "filter", "light", "subsets"], draw: drawSubsets });
  fillSelect(byId("subset-order"), Object.entries(SUBSET_ORDERS), subsets.order);
  byId("subset-order").addEventListener("change", (event) => {
    subsets.order = event.target.value;
    change("subsets");
  });
}
