/* Elements. Whatever comes from data becomes a text node, or an attribute that holds no code and no address. */

const SVG_NAMESPACE = document.getElementById("blank").namespaceURI;
const HIDDEN = /[\p{Cc}\p{Cs}\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/gu;

const byId = (id) => document.getElementById(id);

/* Characters that show nothing, or turn the direction of what follows, as their code point. */
function visibleText(value) {
  const shown = (c) => (c === "\n" || c === "\t" ? c : `\u2308U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u2309`);
  return String(value).replaceAll("\r\n", "\n").replace(HIDDEN, shown);
}

const oneLine = (value) => visibleText(String(value).replace(/\s+/g, " ").trim());

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) {
    if (child === null || child === undefined) continue;
    node.append(child instanceof Node ? child : visibleText(child));
  }
  return node;
}

const el = (name, attributes = {}, ...children) => build(document.createElement(name), attributes, children);
const svg = (name, attributes = {}, ...children) => build(document.createElementNS(SVG_NAMESPACE, name), attributes, children);

/* Names come from users and are written in any direction; each is kept to itself. */
const nameOf = (text, attributes = {}) => el("bdi", { title: oneLine(text), ...attributes }, oneLine(text));

/* `text` cut so that it is at most `width` pixels wide in the font of the charts. */
const measuring = document.createElement("canvas").getContext("2d");
const widths = new Map();
function textWidth(text) {
  if (!widths.has(text)) {
    measuring.font = getComputedStyle(document.body).getPropertyValue("--chart-font") || "12px sans-serif";
    widths.set(text, measuring.measureText(text).width);
  }
  return widths.get(text);
}
function fit(text, width) {
  const line = oneLine(text);
  if (textWidth(line) <= width) return line;
  const letters = [...line];
  let low = 0;
  let high = letters.length;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (textWidth(`${letters.slice(0, middle).join("")}\u2026`) <= width) low = middle;
    else high = middle - 1;
  }
  return low ? `${letters.slice(0, low).join("")}\u2026` : "";
}

/* Titles are bold, which is wider. */
const fitTitle = (text, width) => fit(text, 0.87 * width);

/* The one tooltip: the first line is the name, the others are values. */
function showTip(event, lines) {
  const tip = byId("tip");
  tip.replaceChildren(...lines.filter(Boolean).map((line, at) => el(at ? "span" : "strong", { dir: "auto" }, line)));
  tip.hidden = false;
  const left = Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 8);
  const below = event.clientY + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${below + tip.offsetHeight > window.innerHeight ? event.clientY - tip.offsetHeight - 10 : below}px`;
}
function hideTip() {
  byId("tip").hidden = true;
}

/* For readers who hear the page. */
function say(text) {
  byId("say").textContent = visibleText(text);
}

/* The pointer in the units of a chart, which are pixels unless the page is printed. */
function pointer(root, event) {
  const box = root.getBoundingClientRect();
  const scale = root.viewBox.baseVal.width / box.width || 1;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

/* A labelled select; `options` are [value, text, disabled]. */
function fillSelect(select, options, value) {
  select.replaceChildren(...options.map(([key, text]) => el("option", { value: key }, oneLine(text).slice(0, 90))));
  select.value = String(value);
}
