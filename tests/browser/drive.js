/* Uses every control of the page and writes what it saw into the page. */
const seen = { problems: [], checks: [] };
const wait = () => new Promise((resolve) => setTimeout(resolve, 30));
const check = (name, good) => { seen.checks.push(name); if (!good) seen.problems.push(name); };
const one = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const fire = (node, type, more = {}) => node.dispatchEvent(new Event(type, { bubbles: true, ...more }));
const press = (node, key) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const set = async (node, value, type = "change") => { node.value = value; fire(node, type); await wait(); };

async function charts(when) {
  for (const id of ["curve-accuracy", "curve-loss", "curve-train", "parallel", "scatter", "calibration", "subsets"]) {
    const root = one(`#${id} svg.chart`);
    const box = root.getBoundingClientRect();
    check(`${when}: ${id} is drawn`, box.width > 200 && box.height > 60 && root.querySelectorAll("path").length > 0);
    const host = root.parentElement.getBoundingClientRect();
    check(`${when}: ${id} stays in its box`, box.width <= host.width + 1 || getComputedStyle(root.parentElement).overflowX === "auto");
  }
  check(`${when}: the page is no wider than the window`, document.documentElement.scrollWidth <= window.innerWidth + 1);
}
const litIn = (run) => ["curve-accuracy", "curve-loss", "parallel", "calibration", "subsets"].filter((id) => !one(`#${id} [data-run="${run}"].lit, #${id} g[data-run="${run}"]`));

async function drive() {
  await wait();
  check("ready", document.documentElement.dataset.ready === "yes");
  check("no element came out of data", all("img, main b b, section script").length === 0 && !window.pwned);
  await charts("at first");
  // One click highlights everywhere.
  const row = one("#ranking-body tr");
  row.click();
  await wait();
  const group = Number(row.dataset.group);
  const run = DATA.groups[group].runs[1] ?? DATA.groups[group].runs[0];
  check(`a click on a row highlights everywhere (${litIn(run)})`, litIn(run).length === 0);
  check("the row is marked", one(`#ranking-body tr[data-group="${group}"]`).classList.contains("lit"));
  check("a chip appears", all("#chips .chip").length === 1);
  press(document.body, "Escape");
  await wait();
  check("Escape clears", store.entries.length === 0);
  // A click into a chart does the same: on the last point of a run's accuracy.
  const chart = one("#curve-accuracy svg.chart");
  const line = chart.querySelector("path.line[data-run]");
  const point = line.getPointAtLength(line.getTotalLength());
  const at = chart.getBoundingClientRect();
  chart.dispatchEvent(new MouseEvent("click", { bubbles: true, clientX: at.left + point.x - 1, clientY: at.top + point.y }));
  await wait();
  check("a click on a curve highlights one run", store.entries.length === 1);
  const clicked = runsOf(store.entries[0])[0];
  check(`and everywhere (${litIn(clicked)})`, litIn(clicked).length === 0);
  one("#clear").click();
  await wait();
  check("clear clears", store.entries.length === 0);
  // Sorting by every column, both ways.
  for (const key of all("#ranking-head button").map((button) => button.dataset.sort)) {
    for (const _ of [0, 1]) { one(`#ranking-head [data-sort="${key}"]`).click(); await wait(); }
    check(`sorted by ${key}`, one(`#ranking-head th.${key}`).getAttribute("aria-sort") !== "none");
  }
  one(`#ranking-head [data-sort="loss"]`).click();
  await wait();
  const losses = all("#ranking-body tr").map((tr) => Number(tr.cells[5].textContent)).filter(Number.isFinite);
  const sorted = [...losses].sort((x, y) => x - y);
  check("loss is in order", JSON.stringify(losses) === JSON.stringify(sorted) || JSON.stringify(losses) === JSON.stringify(sorted.reverse()));
  for (const value of ["runs", "groups"]) { const radio = one(`[name=rows][value=${value}]`); radio.checked = true; fire(radio, "change"); await wait(); check(`rows: ${value}`, all("#ranking-body tr").length === (value === "runs" ? RUNS.length : GROUPS.length)); }
  // Filter and brush.
  await set(one("#words"), "#1", "input");
  const filtered = all("#ranking-body tr").length;
  check("the filter takes rows away", passing.size < RUNS.length && filtered <= GROUPS.length);
  one("#unfilter").click();
  await wait();
  check("show all", passing.size === RUNS.length);
  const handle = one("#parallel [data-axis]");
  press(handle, "ArrowUp");
  await wait();
  check("a brush filters", passing.size < RUNS.length && passing.size > 0);
  press(one("#parallel [data-axis]"), "Delete");
  await wait();
  check("and is taken away", passing.size === RUNS.length);
  // Selects.
  for (const id of ["choose-metric", "subset-order", "pair-kind", "pair-order", "pair-subset"]) {
    const values = all(`#${id} option`).map((option) => option.value);
    for (const value of [...values.slice(1), values[0]]) await set(one(`#${id}`), value);
    check(`${id} has choices`, values.length > 1);
  }
  const before = [store.a, store.b];
  one("#swap").click();
  await wait();
  check("swap", store.a === before[1] && store.b === before[0]);
  await set(one("#choose-a"), one("#choose-a option:last-child").value);
  await set(one("#choose-b"), one("#choose-b option").value);
  for (const side of ["a", "b"]) { const select = one(`#seed-${side}`); if (!select.parentElement.hidden) await set(select, select.options[1].value); }
  const log = one("#log-x");
  log.checked = true;
  fire(log, "change");
  await set(one("#smooth"), "0.8", "input");
  // Pairs.
  press(one("#scatter svg.chart"), "ArrowDown");
  await wait();
  check("a pair's text is shown", one("#pair article .text, #pair article .missing") !== null);
  check("texts are texts", !one("#pair article").innerHTML.includes("<img"));
  await set(one("#pair-search"), "chosen 12", "input");
  check("the search finds", all("#pairs article").length > 0 && all("#pairs article").length < 20);
  await set(one("#pair-search"), "", "input");
  const shown = all("#pairs article").length;
  if (!one("#more").hidden) { one("#more").click(); await wait(); check("more", all("#pairs article").length > shown); }
  one("#open-all").click();
  check("open all", all("#pairs details").every((details) => details.open));
  one("#close-all").click();
  check("close all", all("#pairs details").every((details) => !details.open));
  await set(one("#choose-set"), "empty");
  await set(one("#choose-set"), "eval");
  await charts("at last");
}
drive().catch((error) => seen.problems.push(`${error.stack}`)).finally(() => {
  seen.problems.push(...window.errors);
  document.body.append(Object.assign(document.createElement("pre"), { id: "seen", textContent: JSON.stringify(seen) }));
});
