/* The head with its verdict, and the bar that stays in sight: set, A and B, filter, what is highlighted. */

function drawHead() {
  document.title = oneLine(DATA.title || "Comparison");
  byId("title").replaceChildren(oneLine(DATA.title || "Comparison"));
  const set = setInfo();
  const facts = [many(RUNS.length, "run"), many(GROUPS.length, "candidate"), DATA.created ? `written ${DATA.created}` : null];
  const unfinished = RUNS.filter((run) => run.status && run.status !== "finished").length;
  if (unfinished) facts.push(`${unfinished} not finished`);
  byId("facts").textContent = facts.filter(Boolean).join(" \u00b7 ");
  const pairs = known(set.num_pairs) ? `${many(set.num_pairs, "pair")} of ${many(set.num_prompts, "prompt")}` : "";
  byId("setfacts").replaceChildren(
    ...(set.name ? ["Set ", nameOf(set.name), `${pairs ? `: ${pairs}` : ""}${set.source ? ", from " : ""}`, set.source ? nameOf(set.source) : ""] : []),
  );
  byId("verdict").replaceChildren(...verdict());
  const notes = DATA.notes ?? [];
  byId("notes").replaceChildren(...notes.map((note) => el("li", { dir: "auto" }, note)));
  byId("notesbox").hidden = !notes.length;
  byId("notescount").textContent = many(notes.length, "note");
  byId("notesbox").open = notes.length > 0 && notes.length <= 3;
}

const strong = (group) => el("strong", {}, nameOf(GROUPS[group].label));

/* One sentence: the best group, and who shares its place. */
function verdict() {
  const order = rankedGroups();
  if (!order.length) return ["No candidate has an accuracy on this set."];
  const best = order[0];
  const own = groupMetric(best, "accuracy");
  const interval = known(own.low) ? ` (95% interval ${percent(own.low)} to ${percent(own.high)})` : "";
  const parts = [strong(best), ` has the highest accuracy, ${percent(own.mean)}${interval}`];
  if (order.length === 1) return [...parts, "; there is no other candidate to rank it against."];
  const places = placesOf(best);
  if (!places) return [...parts, "; places were not computed on this set."];
  const same = order.slice(1).filter((group) => overlap(places, placesOf(group)));
  if (!same.length) return [...parts, ", and it is better than every other candidate."];
  const few = same.slice(0, 2).flatMap((group, at) => [at ? (same.length === 2 ? " and " : ", ") : "", strong(group)]);
  const rest = same.length > 2 ? [` and ${same.length - 2} more`] : [];
  const all = same.length === order.length - 1;
  return [...parts, "; statistically the same place: ", ...few, ...rest, all ? ", that is every other candidate." : "."];
}

function drawGap() {
  const order = rankedGroups();
  const beaten = order.slice(1).find((group) => !overlap(placesOf(order[0]), placesOf(group)) && wholeSet(group, order[0])?.different);
  const found = beaten === undefined ? null : wholeSet(beaten, order[0]);
  byId("gap").hidden = !found;
  if (!found) return;
  const p = found.p_holm ?? found.p;
  byId("gap").replaceChildren(
    "The next one below it for certain is ", strong(beaten),
    `: ${fixed(100 * Math.abs(found.difference), 1)} points less (95% interval ${fixed(100 * found.low, 1)} to ${fixed(100 * found.high, 1)}, p ${pText(p).replace(/^(?!<)/, "= ")}).`,
  );
}
const wholeSet = (a, b, metric = "accuracy") => comparisonsOf(a, b).find((one) => one.subset === null && one.metric === metric && known(one.difference));

/* The bar. */
function drawChips() {
  const entries = shownEntries();
  const chosen = store.entries.length > 0;
  const chips = entries.map((entry) => {
    const group = entry.group ?? RUNS[entry.run].group;
    const tags = [group === store.a ? "A" : null, group === store.b ? "B" : null].filter(Boolean).join(" ");
    const hidden = runsOf(entry).every((run) => !passing.has(run));
    const remove = () => (entry.run === undefined ? toggleGroup(entry.group) : toggleRun(entry.run));
    return el(
      "li", { class: `chip${hidden ? " hidden" : ""}`, "data-slot": entry.slot },
      swatch(entry.slot), tags ? el("b", { class: "tag" }, tags) : null, nameOf(labelOf(entry), { class: "name" }),
      chosen ? el("button", { class: "small", "aria-label": `compare as A: ${oneLine(labelOf(entry))}`, onclick: () => choosePair(group, store.b) }, "A") : null,
      chosen ? el("button", { class: "small", "aria-label": `compare as B: ${oneLine(labelOf(entry))}`, onclick: () => choosePair(store.a, group) }, "B") : null,
      chosen ? el("button", { class: "small remove", "aria-label": `stop highlighting ${oneLine(labelOf(entry))}`, onclick: remove }, "\u00d7") : null,
    );
  });
  byId("chips").replaceChildren(...chips);
  byId("hint").textContent = chosen ? "" : "A and B are marked. Click on a line, a row or a dot to highlight up to six others.";
  byId("clear").hidden = !chosen;
}

function drawFilter() {
  const left = passing.size;
  const filtered = store.words.trim() !== "" || store.brushes.size > 0;
  byId("filtered").textContent = filtered ? `${left} of ${many(RUNS.length, "run")} pass the filter` : "";
  byId("unfilter").hidden = !filtered;
}

function drawPairSelects() {
  const order = rankedGroups();
  const all = [...order, ...GROUPS.map((group) => group.id).filter((group) => !order.includes(group))];
  const options = (partner) =>
    all.map((group) => {
      const computed = group === partner || comparisonsOf(group, partner).length > 0;
      return [group, `${GROUPS[group].label}${computed ? "" : "  (not computed)"}`];
    });
  fillSelect(byId("choose-a"), options(store.b), store.a);
  fillSelect(byId("choose-b"), options(store.a), store.b);
}

function startHead() {
  fillSelect(byId("choose-set"), SETS.map((one) => [one.name, one.name]), store.set);
  byId("choose-set").addEventListener("change", (event) => chooseSet(event.target.value));
  byId("choose-a").addEventListener("change", (event) => choosePair(Number(event.target.value), store.b));
  byId("choose-b").addEventListener("change", (event) => choosePair(store.a, Number(event.target.value)));
  byId("swap").addEventListener("click", () => {
    const { a, b } = store.seedOf;
    choosePair(store.b, store.a);
    store.seedOf = { a: b, b: a };
  });
  byId("clear").addEventListener("click", clearSelection);
  byId("unfilter").addEventListener("click", () => {
    store.words = "";
    byId("words").value = "";
    store.brushes.clear();
    refilter();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    hideTip();
    clearSelection();
  });
  on(["set"], drawHead);
  on(["set"], drawGap);
  on(["set", "light", "filter", "ab"], drawChips);
  on(["filter"], drawFilter);
  on(["set", "ab"], drawPairSelects);
  for (const draw of [drawHead, drawGap, drawChips, drawFilter, drawPairSelects]) draw();
}
