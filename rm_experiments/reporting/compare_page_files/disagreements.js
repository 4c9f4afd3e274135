/* The pairs on which A and B disagree most, with their texts. */

const disagreements = { order: "gap", many: 20, opened: null, cards: [] };
const PAGE = 20;
const ORDERS = {
  gap: ["margins furthest apart", (one, other) => other.gap - one.gap],
  gain: ["B above A most", (one, other) => other.b - other.a - (one.b - one.a)],
  loss: ["A above B most", (one, other) => other.a - other.b - (one.a - one.b)],
  "worst-a": ["A most wrong", (one, other) => one.a - other.a],
  "worst-b": ["B most wrong", (one, other) => one.b - other.b],
  row: ["order of the data", (one, other) => one.at - other.at],
};

function drawDisagreements() {
  const found = pairsOf().filter(pairPasses).sort(ORDERS[disagreements.order][1]);
  const shown = found.slice(0, disagreements.many);
  disagreements.cards = shown.map((pair, at) => pairCard(pair, disagreements.opened ?? at < 2));
  byId("pairs").replaceChildren(...disagreements.cards.map((card) => card.node));
  const all = pairsOf().length;
  byId("pairs-count").textContent = !all ? "There are no margins of A and B on this set." : found.length ? `${count(shown.length)} of ${many(found.length, "pair")}${pairFilterIsOn() ? ` that pass (of ${count(all)})` : ""}` : "No pair passes the filter.";
  byId("more").hidden = shown.length >= found.length;
  byId("pairs-names").replaceChildren(letter("A", store.a), el("span", {}, "against"), letter("B", store.b));
  markShown();
}

function markShown() {
  for (const { node } of disagreements.cards) node.classList.toggle("shown", Number(node.dataset.pair) === store.pair);
}

function drawPairFilters() {
  const counts = new Map();
  for (const row of rowsOf()) if (row.subset !== null && row.subset !== undefined) counts.set(String(row.subset), (counts.get(String(row.subset)) ?? 0) + 1);
  const subsets = [...counts].sort(([one], [other]) => one.localeCompare(other, "en", { numeric: true }));
  fillSelect(byId("pair-subset"), [["", "every subset"], ...subsets.map(([name, number]) => [name, `${name} (${count(number)})`])], store.subset);
}

function startDisagreements() {
  const again = () => {
    disagreements.many = PAGE;
    change("pairs");
  };
  fillSelect(byId("pair-kind"), [["", "every pair"], ["differ", "one of them right"], ...Object.entries(KINDS).map(([key, { title }]) => [key, title])], store.kind);
  fillSelect(byId("pair-order"), Object.entries(ORDERS).map(([key, [title]]) => [key, title]), disagreements.order);
  byId("pair-kind").addEventListener("change", (event) => {
    store.kind = event.target.value;
    again();
  });
  byId("pair-subset").addEventListener("change", (event) => {
    store.subset = event.target.value;
    again();
  });
  byId("pair-search").addEventListener("input", (event) => {
    store.search = event.target.value;
    again();
  });
  byId("pair-order").addEventListener("change", (event) => {
    disagreements.order = event.target.value;
    again();
  });
  byId("more").addEventListener("click", () => {
    disagreements.many += PAGE;
    drawDisagreements();
  });
  const openAll = (open) => {
    disagreements.opened = open;
    for (const { node } of disagreements.cards) node.querySelector("details").open = open;
  };
  byId("open-all").addEventListener("click", () => openAll(true));
  byId("close-all").addEventListener("click", () => openAll(false));
  on(["set"], drawPairFilters);
  on(["set", "ab", "pairs"], drawDisagreements);
  on(["pair"], markShown);
  on(["light", "filter"], () => {
    for (const card of disagreements.cards) card.relight();
    byId("pairs-names").replaceChildren(letter("A", store.a), el("span", {}, "against"), letter("B", store.b));
  });
  drawPairFilters();
  drawDisagreements();
}
