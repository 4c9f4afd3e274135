"use strict";
const at = (id) => document.getElementById(id);

function headers() {
  const token = at("token").value.trim();
  return { "Content-Type": "application/json", ...(token ? { Authorization: `Bearer ${token}` } : {}) };
}

async function call(path, options) {
  const response = await fetch(path, options);
  let body = null;
  try { body = await response.json(); } catch { /* no JSON: the status says it */ }
  if (!response.ok) {
    const error = new Error(body?.error?.message ?? `the server answered ${response.status}`);
    error.status = response.status;
    throw error;
  }
  return body;
}

async function listModels() {
  try {
    const { data } = await call("/v1/models", { headers: headers() });
    const chosen = at("model").value;
    at("model").replaceChildren(...data.map((one) => new Option(one.id, one.id, false, one.id === chosen)));
    at("modelField").hidden = data.length < 2;
  } catch (error) {
    if (error.status === 401) at("tokenField").open = true;
  }
}

const number = (value) => value.toFixed(3).replace("-", "\u2212");

function line(text, kind) {
  const made = document.createElement("p");
  made.textContent = text;
  if (kind) made.className = kind;
  return made;
}

function cutLine(before, snippet, after) {
  const made = line(before, "cut");
  if (snippet) {
    const quote = document.createElement("q");
    quote.textContent = snippet;
    made.append(quote, after);
  }
  return made;
}

function card(name, answer, index, best) {
  const made = document.createElement("div");
  made.className = best ? "card best" : "card";
  const reward = line(number(answer.rewards[index]), "reward");
  const sd = answer.rewards_sd?.[index];
  made.append(line(`Answer ${name}${best ? " \u00b7 preferred" : ""}`, "quiet"), reward);
  if (sd !== undefined) made.append(line(`\u00b1 ${number(sd)} over the heads of the ensemble`, "quiet"));
  const total = answer.num_tokens[index], prompt = answer.num_prompt_tokens;
  made.append(line(`${total} tokens (${prompt} of the prompt, ${total - prompt} of the answer)`, "quiet"));
  const cut = answer.cut_ends[index];
  if (cut) {
    const until = answer.reads_until?.[index];
    made.append(cutLine(`The last ${cut} tokens were cut. It is read until \u2026`, until, ""));
  }
  return made;
}

function show(answer, names) {
  const cards = names.map((name, index) =>
    card(name, answer, index, names.length > 1 && answer.rank[index] === 1 && answer.rank.indexOf(2) >= 0));
  at("cards").replaceChildren(...cards);
  const two = names.length > 1;
  at("duel").hidden = !two;
  if (two) {
    const win = 1 / (1 + Math.exp(answer.rewards[1] - answer.rewards[0]));
    at("pa").textContent = `A ${(100 * win).toFixed(1)}%`;
    at("pb").textContent = `B ${(100 * (1 - win)).toFixed(1)}%`;
    at("bar").value = win;
    at("bar").setAttribute("aria-label", `A is preferred with ${(100 * win).toFixed(1)} percent`);
  }
  const prompt = at("cutPrompt");
  prompt.hidden = !answer.cut_prompt;
  if (answer.cut_prompt) {
    const rest = answer.reads_from ? "It is read from " : "Nothing of it is read.";
    const alike = names.length > 1 ? ", for both answers alike" : "";
    const made = cutLine(`The oldest ${answer.cut_prompt} tokens of the prompt were cut${alike}. ${rest}`,
      answer.reads_from, " \u2026");
    prompt.replaceChildren(...made.childNodes);
  }
  at("result").hidden = false;
}

async function score(event) {
  event.preventDefault();
  const names = at("b").value === "" ? ["A"] : ["A", "B"];
  const body = { prompt: at("prompt").value, responses: names.map((name) => at(name.toLowerCase()).value) };
  if (at("model").value) body.model = at("model").value;
  at("go").disabled = true;
  at("state").textContent = "computing \u2026";
  at("error").hidden = true;
  try {
    show(await call("/score", { method: "POST", headers: headers(), body: JSON.stringify(body) }), names);
  } catch (error) {
    at("error").textContent = error.message;
    at("error").hidden = false;
    at("result").hidden = true;
    if (error.status === 401) { at("tokenField").open = true; at("token").focus(); }
  } finally {
    at("go").disabled = false;
    at("state").textContent = "";
  }
}

at("form").addEventListener("submit", score);
at("form").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("form").requestSubmit();
});
at("token").addEventListener("change", listModels);
listModels().then(() => { document.documentElement.dataset.ready = "yes"; });
