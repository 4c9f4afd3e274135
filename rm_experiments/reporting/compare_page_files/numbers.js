/* Numbers as text, scales, and where to put ticks. */

const known = (value) => typeof value === "number" && Number.isFinite(value);
const MINUS = "\u2212";
const NONE = "\u2013";

const fixed = (value, digits) => (known(value) ? value.toFixed(digits).replace("-", MINUS) : NONE);
const percent = (value, digits = 1) => (known(value) ? `${fixed(100 * value, digits)}%` : NONE);
const signed = (value, digits) => (known(value) ? (value > 0 ? "+" : "") + fixed(value, digits) : NONE);
const count = (value) => (known(value) ? Math.round(value).toLocaleString("en-US") : NONE);
const many = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;

function pText(value) {
  if (!known(value)) return NONE;
  return value < 0.001 ? "<0.001" : fixed(value, 3);
}

/* Four digits that count; very large and very small ones with an exponent. */
function short(value) {
  if (!known(value)) return NONE;
  const size = Math.abs(value);
  if (size !== 0 && (size >= 1e5 || size < 1e-3)) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e").replaceAll("-", MINUS);
  return String(Number(value.toPrecision(4))).replace("-", MINUS);
}

/* The value of a config key. */
function plain(value) {
  if (value === null || value === undefined) return "none";
  if (typeof value === "number") return short(value);
  return typeof value === "string" ? value : JSON.stringify(value);
}

function mean(values) {
  const there = values.filter(known);
  return there.length ? there.reduce((sum, value) => sum + value, 0) / there.length : null;
}

function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    if (!known(value)) continue;
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return low <= high ? [low, high] : null;
}

/* A range that a few runs which went astray do not stretch: three quartile distances beyond the quartiles. */
function robustExtent(values) {
  const sorted = values.filter(known).sort((one, other) => one - other);
  if (!sorted.length) return null;
  const at = (share) => sorted[Math.round(share * (sorted.length - 1))];
  const reach = 3 * (at(0.75) - at(0.25));
  if (reach === 0) return [sorted[0], sorted[sorted.length - 1]];
  return [Math.max(sorted[0], at(0.25) - reach), Math.min(sorted[sorted.length - 1], at(0.75) + reach)];
}

function padded([low, high], share = 0.05) {
  const by = (high - low) * share || Math.abs(high) * 0.05 || 1;
  return [low - by, high + by];
}

function linear([d0, d1], [r0, r1]) {
  const scale = (value) => r0 + ((value - d0) / (d1 - d0 || 1)) * (r1 - r0);
  scale.invert = (place) => d0 + ((place - r0) / (r1 - r0 || 1)) * (d1 - d0);
  scale.domain = [d0, d1];
  scale.range = [r0, r1];
  return scale;
}

/* Linear below `unit`, logarithmic above, so that step 0 has a place. */
function logFromZero([, d1], range, unit) {
  const inner = linear([0, Math.log1p(d1 / unit)], range);
  const scale = (value) => inner(Math.log1p(Math.max(0, value) / unit));
  scale.invert = (place) => unit * Math.expm1(inner.invert(place));
  scale.domain = [0, d1];
  scale.range = range;
  return scale;
}

function niceTicks(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  if (!(rough > 0)) return [low];
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const ticks = [];
  for (let at = Math.ceil(low / step - 1e-9); at * step <= high + step * 1e-9; at += 1) ticks.push(Number((at * step).toPrecision(12)));
  return ticks;
}

/* 0 and the powers of ten; with 2 and 5 between them where there are few. */
function logTicks(high, unit) {
  const ticks = [0];
  const first = Math.floor(Math.log10(unit));
  const last = Math.floor(Math.log10(Math.max(high, unit)));
  const factors = last - first < 2 ? [1, 2, 5] : [1];
  for (let power = first; power <= last; power += 1) {
    for (const factor of factors) if (factor * 10 ** power <= high && factor * 10 ** power >= unit * 0.5) ticks.push(factor * 10 ** power);
  }
  return ticks;
}

/* Digits so that neighbouring ticks differ. */
function tickDigits(ticks, factor = 1) {
  if (ticks.length < 2) return 2;
  const step = Math.abs(ticks[1] - ticks[0]) * factor;
  return Math.max(0, Math.min(8, Math.ceil(-Math.log10(step) - 1e-9)));
}

function stepText(value) {
  if (value >= 1e6) return `${Number((value / 1e6).toPrecision(3))}M`;
  return value >= 1e4 ? `${Number((value / 1e3).toPrecision(3))}k` : short(value);
}
