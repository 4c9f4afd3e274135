/* Margins of A against those of B, a dot per pair. */

const DOT_REACH = 14;

function drawScatter(root, width) {
  const pairs = pairsOf();
  if (!pairs.length) {
    nothing(root, width, "There are no margins of A and B on this set.");
    return {};
  }
  const height = Math.min(560, Math.max(360, Math.round(width * 0.8)));
  const box = { left: 56, right: width - 14, top: 46, bottom: height - 56, width };
  sized(root, width, height);
  const x = linear(padded(extent([0, ...pairs.map((pair) => pair.a)]), 0.03), [box.left, box.right]);
  const y = linear(padded(extent([0, ...pairs.map((pair) => pair.b)]), 0.03), [box.bottom, box.top]);
  yAxis(root, y, box, ticksOf(y, 6));
  xAxis(root, x, box, { ...ticksOf(x, Math.floor(width / 80)), title: "" });
  const inside = clip(root, box);
  const diagonal = extent([...x.domain, ...y.domain]);
  inside.append(svg("path", { class: "diagonal", d: `M${x(diagonal[0])} ${y(diagonal[0])}L${x(diagonal[1])} ${y(diagonal[1])}` }));
  inside.append(svg("path", { class: "zero", d: `M${x(0)} ${box.top}V${box.bottom}M${box.left} ${y(0)}H${box.right}` }));
  const passes = pairs.map(pairPasses);
  // Dots are subpaths without a length with round ends: one element, however many pairs.
  const dots = (test) => pairs.map((pair, at) => (test(pair, passes[at]) ? `M${x(pair.a).toFixed(1)} ${y(pair.b).toFixed(1)}h0` : "")).join("");
  const differ = (pair) => pair.kind === "a" || pair.kind === "b";
  inside.append(svg("path", { class: "dots out", d: dots((_, passed) => !passed) }));
  inside.append(svg("path", { class: "dots agree", d: dots((pair, passed) => passed && !differ(pair)) }));
  inside.append(svg("path", { class: "dots differ", d: dots((pair, passed) => passed && differ(pair)) }));
  const shown = shownPair();
  if (shown) inside.append(svg("circle", { class: "ring", cx: x(shown.a), cy: y(shown.b), r: 8 }));
  scatterTexts(root, pairs, box, x, y);
  return {
    pick: (px, py) => {
      let best = null;
      pairs.forEach((pair, at) => {
        const distance = Math.hypot(x(pair.a) - px, y(pair.b) - py) + (passes[at] ? 0 : 6);
        if (distance < DOT_REACH && (!best || distance < best.distance)) best = { pair, distance };
      });
      if (!best) return null;
      const { pair } = best;
      return { pair: pair.at, lines: [`pair ${oneLine(rowsOf()[pair.at]?.id ?? pair.at)}`, `margin A ${signed(pair.a, 2)}, B ${signed(pair.b, 2)}: ${KINDS[pair.kind].title}`, oneLine(rowsOf()[pair.at]?.prompt ?? "").slice(0, 120)] };
    },
  };
}

/* Counts stand outside of the box, beside their quadrants, where no dot hides them. */
function scatterTexts(root, pairs, box, x, y) {
  const counts = Object.fromEntries(Object.keys(KINDS).map((kind) => [kind, pairs.filter((pair) => pair.kind === kind).length]));
  const room = (box.right - box.left) / 2 - 8;
  const text = (kind) => fit(`${KINDS[kind].title}: ${count(counts[kind])} (${percent(counts[kind] / pairs.length)})`, room);
  const place = (kind, px, py, anchor) => root.append(svg("text", { class: "quadrant", "data-kind": kind, x: px, y: py, "text-anchor": anchor }, text(kind)));
  place("b", box.left, box.top - 8, "start");
  place("both", box.right, box.top - 8, "end");
  place("none", box.left, box.bottom + 33, "start");
  place("a", box.right, box.bottom + 33, "end");
  const axis = (side, px, py, anchor, width) => {
    const slot = slotOfGroup(store[side]);
    if (slot !== undefined) root.append(svg("path", { class: `line lit s${slot}`, d: `M${px} ${py - 4}h22`, "stroke-dasharray": SLOT_DASHES[slot] }), mark(slot, px + 11, py - 4, 4));
    root.append(svg("text", { class: "title", x: px + (slot === undefined ? 0 : 28), y: py, "text-anchor": anchor }, fitTitle(sideText(side), width - 34)));
  };
  axis("b", 4, 14, "start", box.width - 8);
  axis("a", box.left, box.bottom + 51, "start", box.right - box.left);
}

/* Shows a pair's text beside the scatter. */
function showPair(at) {
  store.pair = store.pair === at ? null : at;
  change("pair");
}
/* The chosen pair, else the one that A and B disagree on most. */
function shownPair() {
  const pairs = pairsOf();
  return pairs.find((pair) => pair.at === store.pair) ?? pairs.reduce((most, pair) => (most && most.gap >= pair.gap ? most : pair), null);
}
let shownCard = null;
function drawShownPair() {
  const host = byId("pair");
  const pair = shownPair();
  shownCard = pair ? pairCard(pair, true) : null;
  const hint = store.pair === null ? "This is the pair that A and B disagree on most. Click on a dot to read its pair, or go through them with the arrow keys." : "";
  host.replaceChildren(...(shownCard ? [el("p", { class: "soft" }, hint), shownCard.node] : [el("p", { class: "nothing" }, "There is no pair to show.")]));
  if (pair && store.pair !== null) say(`Pair ${rowsOf()[pair.at]?.id ?? pair.at}: ${KINDS[pair.kind].title}`);
}

function seedOptions(side) {
  const group = GROUPS[store[side]];
  const several = Boolean(group && group.runs.length > 1);
  byId(`seed-${side}`).parentElement.hidden = !several;
  if (!several) return;
  const options = [["mean", `mean of ${group.runs.length} seeds`], ...group.runs.map((run) => [run, `seed ${plain(RUNS[run].seed)}`])];
  fillSelect(byId(`seed-${side}`), options, store.seedOf[side] ?? "mean");
}

function startScatter() {
  const root = chart(byId("scatter"), {
    label: () => `Margins of A against margins of B on ${many(pairsOf().length, "pair")}. The arrow keys go through the pairs.`,
    topics: ["set", "ab", "light", "pair", "pairs"], draw: drawScatter, walk: false,
  });
  root.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    const order = pairsOf().filter(pairPasses).sort((one, other) => other.gap - one.gap);
    if (!order.length) return;
    const at = order.findIndex((pair) => pair.at === store.pair);
    store.pair = order[at < 0 ? 0 : (at + step + order.length) % order.length].at;
    change("pair");
  });
  for (const side of ["a", "b"]) {
    byId(`seed-${side}`).addEventListener("change", (event) => {
      store.seedOf[side] = event.target.value === "mean" ? null : Number(event.target.value);
      change("ab");
    });
    on(["set", "ab"], () => seedOptions(side));
    seedOptions(side);
  }
  on(["set", "ab", "pair"], drawShownPair);
  on(["light", "filter"], () => shownCard?.relight());
  drawShownPair();
}
