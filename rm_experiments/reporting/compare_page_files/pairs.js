/* The pairs of the set as A and B see them: margins, who is right, and a card with the text. */

const KINDS = {
  b: { title: "only B right", test: (a, b) => a <= 0 && b > 0 },
  a: { title: "only A right", test: (a, b) => a > 0 && b <= 0 },
  both: { title: "both right", test: (a, b) => a > 0 && b > 0 },
  none: { title: "both wrong", test: (a, b) => a <= 0 && b <= 0 },
};
let pairsMade = { key: "", pairs: [] };
let searchable = new Map();

/* The margins of a group: of the chosen run, or the mean over its runs. */
function marginsOf(side) {
  const group = GROUPS[store[side]];
  if (!group) return [];
  const runs = store.seedOf[side] === null ? group.runs : [store.seedOf[side]];
  const lists = runs.map((run) => RUNS[run].margins?.[store.set]).filter((list) => list?.length);
  if (lists.length <= 1) return lists[0] ?? [];
  return lists[0].map((_, at) => mean(lists.map((list) => list[at])));
}

/* {at, a, b, kind, gap} of every pair that both have a margin for. */
function pairsOf() {
  const key = JSON.stringify([store.set, store.a, store.b, store.seedOf]);
  if (pairsMade.key === key) return pairsMade.pairs;
  const [a, b] = [marginsOf("a"), marginsOf("b")];
  const pairs = [];
  for (let at = 0; at < Math.min(a.length, b.length); at += 1) {
    if (!known(a[at]) || !known(b[at])) continue;
    const kind = Object.keys(KINDS).find((name) => KINDS[name].test(a[at], b[at]));
    pairs.push({ at, a: a[at], b: b[at], kind, gap: Math.abs(b[at] - a[at]) });
  }
  pairsMade = { key, pairs };
  return pairs;
}

function searchText(at) {
  const key = `${store.set} ${at}`;
  if (!searchable.has(key)) {
    const row = rowsOf()[at] ?? {};
    searchable.set(key, [row.id, row.prompt, row.chosen, row.rejected].filter((text) => text !== null && text !== undefined).join("\n").toLowerCase());
  }
  return searchable.get(key);
}

const pairFilterIsOn = () => store.kind !== "" || store.subset !== "" || store.search.trim() !== "";
function pairPasses(pair) {
  if (store.kind === "differ" ? pair.kind !== "a" && pair.kind !== "b" : store.kind && pair.kind !== store.kind) return false;
  if (store.subset !== "" && String(rowsOf()[pair.at]?.subset) !== store.subset) return false;
  const words = store.search.toLowerCase().trim();
  return !words || searchText(pair.at).includes(words);
}

/* What A and B are in the charts of pairs: `B: label (mean of 3 seeds)`. */
function sideText(side) {
  const group = GROUPS[store[side]];
  if (!group) return side.toUpperCase();
  const seed = store.seedOf[side] === null ? (group.runs.length > 1 ? ` (mean of ${group.runs.length} seeds)` : "") : ` (seed ${plain(RUNS[store.seedOf[side]].seed)})`;
  return `${side.toUpperCase()}: ${group.label}${seed}`;
}

/* The card of a pair. Its `relight` draws the strip anew when highlighting changes. */
function pairCard(pair, opened) {
  const row = rowsOf()[pair.at] ?? {};
  const strip = el("div", { class: "strip" });
  const relight = () => strip.replaceChildren(marginStrip(pair));
  relight();
  const facts = [row.subset === null || row.subset === undefined ? null : `subset ${row.subset}`, known(row.length_difference) ? `chosen is ${many(Math.abs(row.length_difference), "character")} ${row.length_difference < 0 ? "shorter" : "longer"}` : null];
  if (known(row.label) && row.label !== 1) facts.push(`label ${short(row.label)}`);
  if (known(row.weight) && row.weight !== 1) facts.push(`weight ${short(row.weight)}`);
  const node = el(
    "article", { class: "pair", "data-pair": pair.at, tabindex: -1 },
    el("header", {},
      el("span", { class: `kind ${pair.kind}` }, KINDS[pair.kind].title),
      el("span", { class: "margins" }, "margin A ", el("b", {}, signed(pair.a, 2)), " \u00b7 margin B ", el("b", {}, signed(pair.b, 2)), ` \u00b7 apart ${fixed(pair.gap, 2)}`),
      el("span", { class: "facts" }, "pair ", nameOf(row.id ?? pair.at), ...facts.filter(Boolean).map((fact) => el("span", {}, " \u00b7 ", el("bdi", {}, oneLine(fact))))),
      strip,
    ),
    el("details", { open: opened }, el("summary", {}, el("bdi", {}, row.prompt ? oneLine(row.prompt).slice(0, 160) : "Prompt, chosen and rejected")), ...texts(row)),
  );
  return { node, relight };
}

function texts(row) {
  const part = (name) => {
    const missing = row[name] === null || row[name] === undefined;
    const body = missing ? el("p", { class: "missing" }, "The text was not kept with the records.") : row[name] === "" ? el("p", { class: "missing" }, "Empty.") : el("div", { class: "text", dir: "auto", tabindex: 0, role: "group", "aria-label": name }, row[name]);
    return el("div", { class: name }, el("h4", {}, name), body);
  };
  return [part("prompt"), el("div", { class: "answers" }, part("chosen"), part("rejected"))];
}

/* The margins of all runs on this pair: grey ticks, the highlighted ones with their marks, A and B above. */
function marginStrip(pair) {
  const [width, height] = [380, 40];
  const values = RUNS.map((run) => run.margins?.[store.set]?.[pair.at] ?? null);
  const range = extent([...values, pair.a, pair.b, 0]);
  const x = linear(range, [14, width - 14]);
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img", "aria-label": `Margins of ${RUNS.length} runs on this pair, ${short(range[0])} to ${short(range[1])}` });
  const plainTicks = values.map((value, run) => (known(value) && passing.has(run) && !lit.has(run) ? `M${x(value).toFixed(1)} 15v12` : "")).join("");
  root.append(svg("path", { class: "rail", d: `M8 21H${width - 8}` }), svg("path", { class: "ticks", d: plainTicks }), svg("path", { class: "reference", d: `M${x(0)} 10V32` }));
  values.forEach((value, run) => {
    if (known(value) && lit.has(run) && passing.has(run)) root.append(svg("g", { "data-run": run }, mark(lit.get(run), x(value), 21, 4)));
  });
  let [xa, xb] = [x(pair.a), x(pair.b)];
  if (Math.abs(xa - xb) < 12) {
    const middle = Math.min(width - 12, Math.max(12, (xa + xb) / 2));
    [xa, xb] = xa <= xb ? [middle - 6, middle + 6] : [middle + 6, middle - 6];
  }
  root.append(svg("text", { class: "title", x: xa, y: 10, "text-anchor": "middle" }, "A"), svg("text", { class: "title", x: xb, y: 10, "text-anchor": "middle" }, "B"));
  root.append(svg("text", { x: x(0), y: 39, "text-anchor": "middle" }, "0"));
  return root;
}
