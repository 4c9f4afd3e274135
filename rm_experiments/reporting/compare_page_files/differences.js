/* Is B better than A: by how much, how sure, on what kind of prompt. */

const DIFFERENCE = {
  accuracy: { title: "Accuracy", unit: "points", factor: 100, digits: 1, better: 1 },
  loss: { title: "Loss", unit: "", factor: 1, digits: 4, better: -1 },
};
const kindOfMetric = (metric) => DIFFERENCE[metric] ?? { title: metric, unit: "", factor: 1, digits: 4, better: 0 };

function drawDifferences() {
  const host = byId("differences-body");
  const names = byId("differences-names");
  if (!GROUPS.length) return host.replaceChildren(el("p", { class: "nothing" }, "There is no candidate."));
  names.replaceChildren(letter("A", store.a), el("span", {}, "against"), letter("B", store.b));
  const found = comparisonsOf(store.a, store.b);
  if (store.a === store.b) return host.replaceChildren(el("p", { class: "nothing" }, "A and B are the same candidate. Choose another A or B in the bar above."));
  if (!found.length) return host.replaceChildren(...notComputed());
  const metrics = [...new Set(["accuracy", "loss", ...found.map((one) => one.metric)])].filter((metric) => found.some((one) => one.metric === metric));
  host.replaceChildren(
    ...verdictOfPair(found),
    el("div", { class: "forests" }, ...metrics.map((metric) => forest(metric, found.filter((one) => one.metric === metric)))),
  );
  return undefined;
}

function letter(name, group) {
  return el("span", { class: "letter" }, el("b", { class: "tag" }, name), swatch(slotOfGroup(group)), nameOf(GROUPS[group].label, { class: "name" }));
}

function inWords(one) {
  const { title, unit, factor, digits, better } = kindOfMetric(one.metric);
  const amount = (value) => `${fixed(factor * Math.abs(value), digits)}${unit ? ` ${unit}` : ""}`;
  const interval = `95% interval ${signed(factor * one.low, digits)} to ${signed(factor * one.high, digits)}`;
  const holm = known(one.p_holm) ? `, p ${pText(one.p)}, after Holm ${pText(one.p_holm)}` : `, p ${pText(one.p)}`;
  const certain = ` (${interval}${holm})`;
  if (!known(one.difference)) return `${title}: unknown.`;
  if (one.different) {
    const direction = better * one.difference > 0 ? "B is better" : better ? "B is worse" : one.difference > 0 ? "B is higher" : "B is lower";
    return `${title}: ${direction} by ${amount(one.difference)}${certain}.`;
  }
  const detectable = known(one.smallest_detectable) ? ` The smallest difference that this set could have detected is ${amount(one.smallest_detectable)}.` : "";
  return `${title}: no difference was shown; B \u2212 A is ${signed(factor * one.difference, digits)}${unit ? ` ${unit}` : ""}${certain}.${detectable}`;
}

function verdictOfPair(found) {
  const whole = found.filter((one) => one.subset === null);
  const parts = whole.map((one) => el("p", { class: one.different ? "finding" : "" }, inWords(one)));
  const subsets = found.filter((one) => one.subset !== null && one.metric === "accuracy");
  const side = (sign) => subsets.filter((one) => one.different && sign * one.difference > 0);
  const list = (ones) => ones.flatMap((one, at) => [at ? ", " : "", nameOf(one.subset), ` (${signed(100 * one.difference, 1)})`]);
  if (subsets.length) {
    const [up, down] = [side(1), side(-1)];
    const words = [up.length ? ["B is better on ", ...list(up)] : [], down.length ? ["B is worse on ", ...list(down)] : []].filter((part) => part.length);
    parts.push(el("p", {}, "By subset, in accuracy: ", ...(words.length ? words.flatMap((part, at) => [at ? "; " : "", ...part]) : ["no subset shows a difference"]), "."));
  }
  const counted = whole.find((one) => one.seeds_counted !== undefined && one.seeds_counted !== null);
  const mcnemar = whole.find((one) => known(one.mcnemar_p));
  const small = [];
  if (counted) small.push(counted.seeds_counted ? "The intervals count the variance over seeds, too." : "The intervals count the choice of prompts, not the variance over seeds.");
  if (mcnemar) small.push(`Exact McNemar: p ${pText(mcnemar.mcnemar_p)}.`);
  if (small.length) parts.push(el("p", { class: "soft" }, small.join(" ")));
  return parts;
}

/* A row per subset, the whole set first: the interval is drawn, zero is the line, the band is what could be detected. */
function forest(metric, found) {
  const { title, unit, factor, digits, better } = kindOfMetric(metric);
  const rows = [...found].sort((one, other) => Number(one.subset !== null) - Number(other.subset !== null));
  const reach = Math.max(...rows.flatMap((one) => [one.low, one.high, one.difference]).filter(known).map(Math.abs), 1e-9) * 1.06;
  const value = (v) => signed(factor * v, digits);
  const body = rows.map((one) => {
    const band = one.smallest_detectable;
    const shown = { low: one.low, high: one.high, value: one.difference, reference: 0, band, label: `${value(one.difference)}, ${value(one.low)} to ${value(one.high)}` };
    return el(
      "tr", { class: one.different ? "different" : "" },
      el("th", { scope: "row" }, one.subset === null ? "all pairs" : nameOf(one.subset, { class: "name" })),
      el("td", { title: known(one.num_prompts) ? `${count(one.num_pairs)} pairs of ${count(one.num_prompts)} prompts` : "" }, count(one.num_pairs)),
      el("td", { class: "drawn" }, intervalBar(shown, [-reach, reach], 170, 20)),
      el("td", {}, value(one.difference)),
      el("td", { class: "soft" }, known(one.low) ? `${value(one.low)} to ${value(one.high)}` : NONE),
      el("td", {}, pText(one.p)),
      el("td", {}, pText(one.p_holm)),
      el("td", {}, known(band) ? fixed(factor * band, digits) : NONE),
    );
  });
  const sides = better === 1 ? ["A better", "B better"] : better === -1 ? ["B better", "A better"] : ["A higher", "B higher"];
  const heads = ["", "Pairs", null, "B \u2212 A", "95% interval", "p", "Holm p", "Detectable"];
  const head = heads.map((text) =>
    text === null ? el("th", { scope: "col", class: "drawn" }, el("span", { class: "sides" }, el("span", {}, `\u2190 ${sides[0]}`), el("span", {}, `${sides[1]} \u2192`))) : el("th", { scope: "col" }, text),
  );
  return el(
    "div", { class: "scroll forest", tabindex: 0, role: "region", "aria-label": `${title}: differences` },
    el("table", { "data-metric": metric }, el("caption", {}, `${title}, B \u2212 A${unit ? `, in ${unit}` : ""}`), el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...body)),
  );
}

/* The pair is not in the list: what can be said without it. */
function notComputed() {
  const [a, b] = [store.a, store.b];
  const has = (group) => `${percent(groupMetric(group, "accuracy").mean)}`;
  const places = placesOf(a) && placesOf(b);
  const same = overlap(placesOf(a), placesOf(b));
  const place = places ? ` Their places (${placeText(placesOf(a))} and ${placeText(placesOf(b))}) ${same ? "overlap: statistically the same." : "do not overlap."}` : "";
  const partners = (group) => GROUPS.filter((one) => one.id !== group && comparisonsOf(group, one.id).length).length;
  return [
    el("p", { class: "nothing" }, `This pair was not compared on this set: with ${many(GROUPS.length, "candidate")} not every pair is. A has accuracy ${has(a)}, B ${has(b)}.${place}`),
    el("p", { class: "soft" }, `A was compared with ${many(partners(a), "candidate")}, B with ${many(partners(b), "candidate")}; the selects above mark the others. rm-compare of these two alone compares them.`),
  ];
}

function startDifferences() {
  on(["set", "ab", "light"], drawDifferences);
  drawDifferences();
}
