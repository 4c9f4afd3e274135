/* The axes of the parallel coordinates: numbers on a linear or a logarithmic axis, everything else by category. */

const LOG_FROM = 20; // ratio of the largest to the smallest value

/* `values` by run. An axis maps a value to a place in [0, 1] and back, names its ticks, and tests a brush. */
function makeAxis(key, title, values, text = plain) {
  const there = values.filter((value) => value !== null && value !== undefined);
  const hasNone = there.length < values.length;
  const numeric = there.length > 0 && there.every(known);
  const axis = numeric ? numericAxis(there, hasNone, text) : categoricalAxis(there, hasNone);
  return { key, title, values, ...axis };
}

function numericAxis(there, hasNone, text) {
  const distinct = [...new Set(there)].sort((one, other) => one - other);
  const [low, high] = [distinct[0], distinct[distinct.length - 1]];
  const isLog = low > 0 && distinct.length > 1 && high / low >= LOG_FROM;
  const bend = isLog ? Math.log10 : (value) => value;
  const floor = hasNone ? 0.12 : 0;
  const inner = linear([bend(low), bend(high)], [floor, 1]);
  const t = (value) => (known(value) ? (low === high ? (1 + floor) / 2 : inner(bend(value))) : 0);
  const back = (place) => (isLog ? 10 ** inner.invert(place) : inner.invert(place));
  let ticks = distinct;
  if (distinct.length > 12) ticks = isLog ? logTicks(high, low).filter((tick) => tick >= low) : niceTicks(low, high, 6);
  if (!ticks.length) ticks = [low, high];
  const named = ticks.map((value) => ({ t: t(value), text: text(value) }));
  if (hasNone) named.unshift({ t: 0, text: "none" });
  return {
    kind: isLog ? "log" : "linear", t, ticks: named,
    brush: (from, to) => ({ low: low === high ? low : back(Math.max(from, floor)), high: low === high ? high : back(to), numbers: to >= floor, none: hasNone && from <= floor / 2 }),
    passes: (brush, value) => (known(value) ? brush.numbers && value >= brush.low - 1e-9 * Math.abs(brush.low) && value <= brush.high + 1e-9 * Math.abs(brush.high) : brush.none),
    span: (brush) => [brush.none ? 0 : t(brush.low), brush.numbers ? t(brush.high) : floor / 2],
  };
}

function categoricalAxis(there, hasNone) {
  const names = [...new Set(there.map(plain))].sort((one, other) => one.localeCompare(other, "en", { numeric: true }));
  if (hasNone) names.push("none");
  const place = new Map(names.map((name, at) => [name, names.length === 1 ? 0.5 : 1 - at / (names.length - 1)]));
  const t = (value) => place.get(plain(value)) ?? 0;
  const half = names.length > 1 ? 0.5 / (names.length - 1) : 0.5;
  return {
    kind: "category", t, ticks: names.map((name) => ({ t: place.get(name), text: name })).reverse(),
    brush: (from, to) => ({ names: names.filter((name) => place.get(name) >= from && place.get(name) <= to), from, to }),
    passes: (brush, value) => brush.names.includes(plain(value)),
    span: (brush) => [Math.max(-half, brush.from), Math.min(1 + half, brush.to)],
  };
}

/* The options in which runs differ, then the metric. Constant ones say nothing and are named instead. */
function axesOf(metric) {
  const keys = (DATA.options ?? []).filter((key) => new Set(RUNS.map((run) => plain(run.options?.[key]))).size > 1);
  const axes = keys.map((key) => makeAxis(key, key, RUNS.map((run) => run.options?.[key])));
  const values = RUNS.map((run) => runMetric(run.id, metric));
  return [...axes, makeAxis("metric", METRICS[metric].title, values, METRICS[metric].text)];
}
const constantOptions = () => (DATA.options ?? []).filter((key) => new Set(RUNS.map((run) => plain(run.options?.[key]))).size <= 1);
