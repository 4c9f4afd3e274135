/* The ranking: one row per group, or per run; sortable by every column. */

const ranking = { rows: "groups", key: "place", down: false };

const COLUMNS = [
  { key: "place", title: "Place", hint: "first and last place that it may have", of: (row) => (row.places ? row.places[0] + row.places[1] / 1e4 : null) },
  { key: "label", title: "Candidate", of: (row) => row.label, words: true },
  { key: "seeds", title: "Seeds", hint: "runs of this config that finished", of: (row) => row.seeds },
  { key: "accuracy", title: "Accuracy", hint: "mean, with its 95% interval", of: (row) => row.accuracy.mean, best: 1 },
  { key: "sd", title: "SD", hint: "standard deviation of the accuracy over seeds, in points", of: (row) => row.accuracy.sd },
  { key: "loss", title: "Loss", hint: "mean of -log sigmoid(margin)", of: (row) => row.loss.mean, best: -1 },
  { key: "ece", title: "ECE", hint: "expected calibration error", of: (row) => row.ece, best: -1 },
  { key: "length", title: "Length corr.", hint: "correlation of the margin with the difference in length", of: (row) => row.length },
];

function groupRow(group) {
  const { id, label, runs } = GROUPS[group];
  const done = runs.filter((run) => !RUNS[run].status || RUNS[run].status === "finished").length;
  const seeds = done === runs.length ? String(done) : `${done} of ${runs.length}`;
  return {
    group: id, label, runs, places: placesOf(id), seeds: done, seedText: seeds, accuracy: groupMetric(id, "accuracy"),
    loss: groupMetric(id, "loss"), ece: groupMetric(id, "ece").mean, length: groupMetric(id, "length_correlation").mean,
  };
}
function runRow(run) {
  const { id, label, group, seed, status } = RUNS[run];
  const value = (key) => runMetric(id, key);
  return {
    group, run: id, label, runs: [id], places: placesOf(group), seeds: seed, seedText: plain(seed),
    note: status && status !== "finished" ? status : "",
    accuracy: { mean: value("accuracy"), low: value("accuracy_ci_low"), high: value("accuracy_ci_high"), sd: null },
    loss: { mean: value("loss") }, ece: value("ece"), length: value("length_correlation"),
  };
}

function sortedRows() {
  const perGroup = ranking.rows === "groups";
  const rows = perGroup ? GROUPS.map((group) => groupRow(group.id)) : RUNS.map((run) => runRow(run.id));
  const column = COLUMNS.find((one) => one.key === ranking.key);
  const direction = ranking.down ? -1 : 1;
  const order = (one, other) => {
    const [x, y] = [column.of(one), column.of(other)];
    if (column.words) return direction * String(x).localeCompare(String(y), "en", { numeric: true });
    if (!known(x) || !known(y)) return Number(known(y)) - Number(known(x));
    return direction * (x - y);
  };
  const byAccuracy = (one, other) => (other.accuracy.mean ?? -1) - (one.accuracy.mean ?? -1);
  return rows.filter((row) => row.runs.some((run) => passing.has(run))).sort((one, other) => order(one, other) || byAccuracy(one, other));
}

/* Whose place the shade is about: the latest highlighted group, else the best. */
function referenceGroup() {
  const last = store.entries[store.entries.length - 1];
  return last ? (last.group ?? RUNS[last.run].group) : rankedGroups()[0];
}

function drawRanking() {
  const rows = sortedRows();
  const domain = padded(extent(rows.flatMap((row) => [row.accuracy.low, row.accuracy.high, row.accuracy.mean])) ?? [0, 1], 0.02);
  const focused = document.activeElement?.closest?.("#ranking tbody tr")?.dataset.key;
  const heads = COLUMNS.map((column) => {
    const sorted = ranking.key === column.key;
    const title = column.key === "label" && ranking.rows === "runs" ? "Run" : column.key === "seeds" && ranking.rows === "runs" ? "Seed" : column.title;
    return el(
      "th", { scope: "col", class: column.key, "aria-sort": sorted ? (ranking.down ? "descending" : "ascending") : "none" },
      el("button", { "data-sort": column.key, title: column.hint ?? "", onclick: () => sortBy(column) }, title, el("i", { "aria-hidden": "true" }, sorted ? (ranking.down ? "\u25bc" : "\u25b2") : "")),
    );
  });
  byId("ranking-head").replaceChildren(...heads);
  byId("ranking-body").replaceChildren(...rows.map((row) => rankingRow(row, domain)));
  byId("ranking-none").hidden = rows.length > 0;
  byId("ranking-scale").textContent = rows.length ? `Accuracy is drawn from ${percent(domain[0])} to ${percent(domain[1])}.` : "";
  lightRanking();
  if (focused) byId("ranking-body").querySelector(`[data-key="${focused}"]`)?.focus();
}

function sortBy(column) {
  const fresh = column.best === 1;
  ranking.down = ranking.key === column.key ? !ranking.down : fresh;
  ranking.key = column.key;
  drawRanking();
  byId("ranking-head").querySelector(`[data-sort="${column.key}"]`).focus();
}

function rankingRow(row, domain) {
  const { mean: value, low, high, sd } = row.accuracy;
  const label = known(low) ? `${percent(value)}, interval ${percent(low)} to ${percent(high)}` : percent(value);
  const numbers = el("span", { class: "value" }, percent(value));
  return el(
    "tr", { tabindex: -1, "data-key": row.run === undefined ? `g${row.group}` : `r${row.run}`, "data-group": row.group, "data-run": row.run ?? null },
    el("td", { class: "place" }, placeText(row.places), placeBar(row.places)),
    el("th", { scope: "row", class: "label" }, el("span", { class: "swatchbox" }), el("b", { class: "tags" }), nameOf(row.label, { class: "name" }), row.note ? el("em", {}, row.note) : null),
    el("td", {}, row.seedText),
    el("td", { class: "accuracy" }, intervalBar({ low, high, value, reference: 0.5 > domain[0] ? 0.5 : null, label }, domain), numbers),
    el("td", {}, known(sd) ? fixed(100 * sd, 2) : NONE),
    el("td", {}, fixed(row.loss.mean, 4)),
    el("td", {}, fixed(row.ece, 3)),
    el("td", {}, signed(row.length, 2)),
  );
}

function placeText(places) {
  if (!places) return NONE;
  return places[0] === places[1] ? String(places[0]) : `${places[0]}${NONE}${places[1]}`;
}
function placeBar(places) {
  const root = svg("svg", { class: "places", viewBox: "0 0 60 8", width: 60, height: 8, "aria-hidden": "true" }, svg("path", { class: "rail", d: "M1 4H59" }));
  if (!places) return root;
  const x = linear([1, Math.max(2, GROUPS.length)], [3, 57]);
  root.append(svg("path", { class: "range", d: `M${x(places[0])} 4H${x(places[1]) + 0.01}` }));
  return root;
}

/* What highlighting changes, without building the rows anew. */
function lightRanking() {
  const rows = [...byId("ranking-body").rows];
  const reference = referenceGroup();
  const same = rows.map((row) => overlap(placesOf(reference ?? 0), placesOf(Number(row.dataset.group))));
  rows.forEach((row, at) => {
    const group = Number(row.dataset.group);
    const slot = row.dataset.run === undefined ? slotOfGroup(group) : lit.get(Number(row.dataset.run));
    row.classList.toggle("lit", slot !== undefined);
    row.classList.toggle("same", same[at]);
    row.classList.toggle("first", same[at] && !same[at - 1]);
    row.classList.toggle("last", same[at] && !same[at + 1]);
    row.setAttribute("aria-selected", String(slot !== undefined && store.entries.length > 0));
    row.querySelector(".swatchbox").replaceChildren(swatch(slot));
    row.querySelector(".tags").textContent = [group === store.a ? "A" : "", group === store.b ? "B" : ""].join("");
  });
  if (!rows.some((row) => row.tabIndex === 0) && rows.length) rows[0].tabIndex = 0;
  const many_ = same.filter(Boolean).length;
  byId("ranking-same").replaceChildren(
    ...(reference !== undefined && placesOf(reference)
      ? [`Shaded (${many_}): statistically the same place as `, nameOf(GROUPS[reference].label), many_ === 1 ? ", that is only itself." : "."]
      : []),
  );
}

function startRanking() {
  const body = byId("ranking-body");
  const toggle = (row) => (row.dataset.run === undefined ? toggleGroup(Number(row.dataset.group)) : toggleRun(Number(row.dataset.run)));
  const focus = (row) => {
    for (const one of body.rows) one.tabIndex = -1;
    row.tabIndex = 0;
    row.focus();
  };
  body.addEventListener("click", (event) => {
    const row = event.target.closest("tr");
    focus(row);
    toggle(row);
  });
  body.addEventListener("keydown", (event) => {
    const row = event.target.closest("tr");
    const next = { ArrowDown: row.nextElementSibling, ArrowUp: row.previousElementSibling, Home: body.rows[0], End: body.rows[body.rows.length - 1] }[event.key];
    if (next) focus(next);
    else if (event.key === "Enter" || event.key === " ") toggle(row);
    else return;
    event.preventDefault();
  });
  body.addEventListener("pointerover", (event) => hover(RUNS[event.target.closest("tr")?.dataset.run ?? GROUPS[event.target.closest("tr")?.dataset.group]?.runs[0]]?.id ?? null));
  body.addEventListener("pointerleave", () => hover(null));
  hoverListeners.push((run) => {
    for (const row of body.rows) row.classList.toggle("over", run !== null && (row.dataset.run === undefined ? RUNS[run].group === Number(row.dataset.group) : Number(row.dataset.run) === run));
  });
  byId("words").addEventListener("input", (event) => {
    store.words = event.target.value;
    refilter();
  });
  for (const button of document.querySelectorAll("[name=rows]")) {
    button.addEventListener("change", () => {
      ranking.rows = button.value;
      drawRanking();
    });
  }
  on(["set", "filter"], drawRanking);
  on(["light", "ab"], lightRanking);
  drawRanking();
}
