/* The data, what the reader has chosen, and who is told when that changes. */

const DATA = JSON.parse(byId("data").textContent);
const { runs: RUNS, groups: GROUPS, sets: SETS } = DATA;
const MOST_ENTRIES = 6;
const METRICS = {
  accuracy: { title: "accuracy", text: percent, better: 1 },
  loss: { title: "loss", text: (value) => fixed(value, 4), better: -1 },
  ece: { title: "calibration error", text: (value) => fixed(value, 3), better: -1 },
  length_correlation: { title: "length correlation", text: (value) => signed(value, 2), better: 0 },
};

const store = {
  set: SETS.some((one) => one.name === DATA.set) ? DATA.set : SETS[0]?.name,
  entries: [], // up to six of {slot, group} or {slot, run}
  a: 0,
  b: 0, // groups
  seedOf: { a: null, b: null }, // a run of the group, or null: the mean of its runs
  words: "",
  brushes: new Map(), // axis key -> what passes
  pair: null, // number of the pair whose text is shown
  kind: "",
  subset: "",
  search: "",
};
let lit = new Map(); // run -> slot
let passing = new Set(RUNS.map((run) => run.id));
let hovered = null;

const listeners = [];
const hoverListeners = [];
let changed = new Set();
let frame = 0;

/* Draw when one of the topics changes: set, filter, light, ab, pair, pairs, size. */
function on(topics, draw) {
  listeners.push([topics, draw]);
}
function change(...topics) {
  for (const topic of topics) changed.add(topic);
  if (!frame) frame = requestAnimationFrame(tell);
}
function tell() {
  frame = 0;
  const topics = changed;
  changed = new Set();
  for (const [mine, draw] of listeners) if (mine.some((topic) => topics.has(topic))) draw(topics);
}

/* What the data says. */
const setInfo = () => SETS.find((one) => one.name === store.set) ?? {};
const rowsOf = () => DATA.rows?.[store.set] ?? [];
const runMetric = (run, key) => RUNS[run].metrics?.[store.set]?.[key] ?? null;
const placesOf = (group) => GROUPS[group].places?.[store.set] ?? null;
const overlap = (one, other) => Boolean(one && other && one[0] <= other[1] && other[0] <= one[1]);
const labelOf = (entry) => (entry.run === undefined ? GROUPS[entry.group].label : RUNS[entry.run].label);
const runsOf = (entry) => (entry.run === undefined ? GROUPS[entry.group].runs : [entry.run]);

function groupMetric(group, key) {
  const own = GROUPS[group].metrics?.[store.set]?.[key];
  if (own) return own;
  return { mean: mean(GROUPS[group].runs.map((run) => runMetric(run, key))), sd: null, low: null, high: null };
}

/* Groups with an accuracy, the best first. */
function rankedGroups() {
  const placed = GROUPS.filter((group) => known(groupMetric(group.id, "accuracy").mean));
  const place = (group) => placesOf(group.id)?.[0] ?? Infinity;
  const accuracy = (group) => groupMetric(group.id, "accuracy").mean;
  return placed.sort((one, other) => accuracy(other) - accuracy(one) || place(one) - place(other)).map((group) => group.id);
}

/* Comparisons of A and B on this set, turned so that the difference is B - A. */
function comparisonsOf(a, b) {
  const turn = (value) => (known(value) ? -value : null);
  return (DATA.comparisons ?? []).flatMap((one) => {
    if (one.set !== store.set) return [];
    if (one.a === a && one.b === b) return [one];
    if (one.a !== b || one.b !== a) return [];
    return [{ ...one, a, b, difference: turn(one.difference), low: turn(one.high), high: turn(one.low) }];
  });
}

/* Selection. */
function shownEntries() {
  if (store.entries.length || !GROUPS.length) return store.entries;
  const pair = store.a === store.b ? [store.a] : [store.a, store.b];
  return pair.map((group, slot) => ({ slot, group }));
}
const entryOf = (run) => shownEntries().find((entry) => runsOf(entry).includes(run));
const slotOfGroup = (group) => GROUPS[group].runs.map((run) => lit.get(run)).find((slot) => slot !== undefined);

function relight() {
  lit = new Map();
  for (const entry of shownEntries()) for (const run of runsOf(entry)) if (!lit.has(run)) lit.set(run, entry.slot);
  change("light");
}
function add(entry) {
  if (store.entries.length === MOST_ENTRIES) store.entries.shift();
  const slot = [0, 1, 2, 3, 4, 5].find((free) => store.entries.every((one) => one.slot !== free));
  store.entries.push({ slot, ...entry });
  say(`Highlighted: ${labelOf(entry)}`);
}
function toggleRun(run) {
  const before = store.entries.length;
  store.entries = store.entries.filter((entry) => !runsOf(entry).includes(run));
  if (store.entries.length === before) add(GROUPS[RUNS[run].group].runs.length === 1 ? { group: RUNS[run].group } : { run });
  relight();
}
function toggleGroup(group) {
  const before = store.entries.length;
  store.entries = store.entries.filter((entry) => !runsOf(entry).some((run) => RUNS[run].group === group));
  if (store.entries.length === before) add({ group });
  relight();
}
function clearSelection() {
  store.entries = [];
  say("Nothing is highlighted");
  relight();
}
function choosePair(a, b) {
  if (a !== store.a) store.seedOf.a = null;
  if (b !== store.b) store.seedOf.b = null;
  Object.assign(store, { a, b, pair: null });
  change("ab");
  relight();
}
function chooseSet(name) {
  Object.assign(store, { set: name, pair: null, subset: "" });
  change("set");
  refilter();
}
function hover(run) {
  if (run === hovered) return;
  hovered = run;
  for (const listener of hoverListeners) listener(run);
}

/* Which runs pass: the words of the filter box, and the brushes. */
const filters = []; // functions of a run; the parallel coordinates add theirs
function refilter() {
  const words = store.words.toLowerCase().split(/\s+/).filter(Boolean);
  const texts = (run) => `${run.label} ${GROUPS[run.group].label}`.toLowerCase();
  const passes = (run) => words.every((word) => texts(run).includes(word)) && filters.every((filter) => filter(run.id));
  passing = new Set(RUNS.filter(passes).map((run) => run.id));
  change("filter");
}
const passingRuns = () => RUNS.filter((run) => passing.has(run.id)).map((run) => run.id);

{
  const [best, second] = rankedGroups();
  Object.assign(store, { a: second ?? best ?? 0, b: best ?? 0 });
  relight();
}
