"use strict";
// Prompts, rollouts and events: search, filters, sorting. Everything that comes from a run is set as text.

const PAGE = 50;
const SVG = "http://www.w3.org/2000/svg";

function fill(select, names) {
  for (const name of names) select.append(element("option", { text: name }));
}

function spark(values) {
  const width = 90, height = 18;
  const svg = document.createElementNS(SVG, "svg");
  for (const [name, value] of [["class", "spark"], ["width", width], ["height", height], ["role", "img"]]) svg.setAttribute(name, value);
  svg.setAttribute("aria-label", values.map((one) => `${Math.round(100 * one)}%`).join(", "));
  const at = (place) => [values.length > 1 ? (place * width) / (values.length - 1) : width / 2, height - 1 - values[place] * (height - 2)];
  if (values.length > 1) {
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", values.map((_, place) => at(place).map((one) => one.toFixed(1)).join(",")).join(" "));
    svg.append(line);
  }
  const dot = document.createElementNS(SVG, "circle");
  const [x, y] = at(values.length - 1);
  for (const [name, value] of [["cx", x], ["cy", y], ["r", 2.4]]) dot.setAttribute(name, value);
  svg.append(dot);
  return svg;
}

// --- prompts ---------------------------------------------------------------------------------------------------

const prompts = dataOf("prompts");
const rollouts = dataOf("rollouts");
const TONES = { unsolved: "bad", frontier: "info", solved: "good", forgotten: "fair" };
const COLUMNS = [
  { name: "prompt", key: (one) => one.title || one.uid },
  { name: "distribution", key: (one) => one.distribution },
  { name: "state", key: (one) => one.state || "" },
  { name: "visits", key: (one) => one.visits, number: true },
  { name: "samples", key: (one) => one.samples, number: true },
  { name: "last pass rate", key: (one) => (one.rates.length ? one.rates[one.rates.length - 1] : -1), number: true },
  { name: "pass rates", key: (one) => (one.rates.length ? one.rates[one.rates.length - 1] - one.rates[0] : -2) },
  { name: "suspects", key: (one) => one.suspects.length, number: false },
];
const order = { column: prompts.some((one) => one.suspects.length) ? 7 : 3, down: true, page: 0 };
const groupsOf = new Map();
rollouts.forEach((group, at) => groupsOf.set(group.uid, [...(groupsOf.get(group.uid) || []), at]));

function chosenPrompts() {
  const words = byId("prompt-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = byId("prompt-state").value, name = byId("prompt-distribution").value, suspects = byId("prompt-suspects").checked;
  const found = prompts.filter((one) => (!state || one.state === state) && (!name || one.distribution === name) && (!suspects || one.suspects.length)
    && words.every((word) => `${one.title} ${one.uid} ${one.distribution} ${one.suspects.join(" ")}`.toLowerCase().includes(word)));
  const { key } = COLUMNS[order.column], sign = order.down ? -1 : 1;
  return found.sort((a, b) => { const x = key(a), y = key(b); return sign * (x < y ? -1 : x > y ? 1 : 0) || b.visits - a.visits || (a.uid < b.uid ? -1 : 1); });
}

function promptRow(one) {
  const title = element("td", { class: "title" }, element("span", { class: "mono", text: one.title || one.uid }));
  title.title = one.title ? `prompt ${one.uid}` : "No rollout of it was logged, so its text is not known.";
  const shown = groupsOf.get(one.uid);
  if (shown) {
    const button = element("button", { type: "button", text: shown.length > 1 ? `${shown.length} groups` : "rollouts" });
    button.addEventListener("click", () => { byId("rollout-distribution").value = byId("rollout-outcome").value = ""; byId("rollout-search").value = one.uid; listGroups(); go("rollouts"); });
    title.append(" ", button);
  }
  const history = element("td");
  if (one.rates.length) {
    history.append(spark(one.rates));
    history.title = one.steps.map((step, at) => `step ${step}: ${Math.round(100 * one.rates[at])}%`).join("\n");
  }
  const last = one.rates.length ? `${Math.round(100 * one.rates[one.rates.length - 1])}%` : "–";
  return element("tr", {}, title, element("td", { text: one.distribution }),
    element("td", {}, element("span", { class: `pill ${TONES[one.state] || ""}`, text: one.state || "not judged" })),
    element("td", { class: "number", text: one.visits }), element("td", { class: "number", text: one.samples }), element("td", { class: "number", text: last }), history,
    element("td", { class: "suspect" }, ...one.suspects.map((text) => element("div", { text }))));
}

function listPrompts() {
  const found = chosenPrompts(), last = Math.max(0, Math.ceil(found.length / PAGE) - 1);
  order.page = Math.min(order.page, last);
  const from = order.page * PAGE, shown = found.slice(from, from + PAGE);
  document.querySelector("#prompts-table tbody").replaceChildren(...shown.map(promptRow));
  byId("prompt-count").textContent = `${found.length.toLocaleString("en")} of ${prompts.length.toLocaleString("en")} prompts`;
  byId("prompt-none").hidden = found.length > 0;
  byId("prompt-page").textContent = found.length ? `${from + 1} to ${from + shown.length}` : "none";
  byId("prompt-previous").disabled = order.page === 0;
  byId("prompt-next").disabled = order.page >= last;
  document.querySelectorAll("#prompts-table th").forEach((head, at) => {
    if (at === order.column) head.setAttribute("aria-sort", order.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

COLUMNS.forEach((column, at) => {
  const button = element("button", { type: "button", text: column.name });
  button.addEventListener("click", () => {
    order.down = order.column === at ? !order.down : Boolean(column.number);
    order.column = at;
    order.page = 0;
    listPrompts();
  });
  document.querySelector("#prompts-table thead tr").append(element("th", column.number ? { class: "number" } : {}, button));
});
for (const id of ["prompt-search", "prompt-state", "prompt-distribution", "prompt-suspects"]) byId(id).addEventListener("input", () => { order.page = 0; listPrompts(); });
byId("prompt-previous").addEventListener("click", () => { order.page -= 1; listPrompts(); });
byId("prompt-next").addEventListener("click", () => { order.page += 1; listPrompts(); });
fill(byId("prompt-state"), Object.keys(TONES));
fill(byId("prompt-distribution"), [...new Set(prompts.map((one) => one.distribution))]);

// --- rollouts --------------------------------------------------------------------------------------------------

const OUTCOMES = {
  mixed: (group) => group.rollouts.some(right) && group.rollouts.some(wrong),
  wrong: (group) => group.rollouts.every(wrong),
  right: (group) => group.rollouts.every(right),
  truncated: (group) => group.rollouts.some((one) => one.truncated),
  failed: (group) => group.rollouts.some((one) => one.correct === null),
};
function right(one) { return one.correct !== null && one.correct >= 1; }
function wrong(one) { return one.correct !== null && one.correct < 1; }
let listed = [], current = -1;

function listGroups() {
  const words = byId("rollout-search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const name = byId("rollout-distribution").value, outcome = OUTCOMES[byId("rollout-outcome").value];
  listed = rollouts.filter((group) => (!name || group.distribution === name) && (!outcome || outcome(group))
    && words.every((word) => [group.uid, group.distribution, group.stage, group.prompt, ...group.rollouts.map((one) => one.completion)].some((text) => text.toLowerCase().includes(word))));
  byId("groups").replaceChildren(...listed.map((group, at) => {
    const dots = element("span", { class: "dots", "aria-hidden": "true" }, ...group.rollouts.map((one) => element("span", { class: right(one) ? "up" : wrong(one) ? "down" : "", text: right(one) ? "●" : wrong(one) ? "○" : "×" })));
    const option = element("div", { role: "option", id: `group-${at}`, "aria-selected": "false" }, dots, element("span", { text: `step ${group.step} · ${group.distribution}` }), element("span", { class: "mono", text: group.prompt.slice(-60) }));
    option.addEventListener("click", () => choose(at));
    return option;
  }));
  byId("rollout-all").hidden = !words.length && !name && !outcome;
  byId("rollout-count").textContent = `${listed.length} of ${rollouts.length} groups`;
  choose(listed.length ? 0 : -1);
}

byId("rollout-all").addEventListener("click", () => {
  for (const id of ["rollout-search", "rollout-distribution", "rollout-outcome"]) byId(id).value = "";
  listGroups();
});

function fact(name, value, tone = "") {
  return element("span", { class: "number" }, `${name} `, element("b", { class: tone, text: value }));
}

const short = (value) => (typeof value === "number" ? String(Number(value.toPrecision(4))) : value === null ? "–" : String(value));

function pairs(title, values) {
  const text = Object.entries(values).map(([name, value]) => `${name} ${short(value)}`).join(" · ");
  return text ? [element("div", { class: "parts", text: `${title}: ${text}` })] : [];
}

function card(one) {
  const verdict = one.correct === null ? ["not judged", ""] : right(one) ? ["correct", "good"] : one.correct > 0 ? [`${short(one.correct)} correct`, "fair"] : ["wrong", "bad"];
  const advantage = one.advantage === null ? "–" : `${one.advantage > 0 ? "+" : ""}${one.advantage.toFixed(2)}`;
  const facts = element("div", { class: "facts" }, element("b", { text: `sample ${one.sample}` }), element("span", { class: `pill ${verdict[1]}`, text: verdict[0] }),
    fact("reward", short(one.reward)), fact("advantage", advantage, one.advantage > 0 ? "up" : one.advantage < 0 ? "down" : ""), fact("tokens", one.length));
  if (one.truncated) facts.append(element("span", { class: "pill fair", text: "cut off" }));
  if (one.status !== "scored") facts.append(element("span", { class: "pill bad", text: one.status }));
  if (one.mode) facts.append(element("span", { class: "pill", text: `mode ${one.mode}` }));
  return element("section", { class: "rollout" }, facts, ...pairs("breakdown", one.breakdown), ...pairs("notes", one.notes), element("pre", { text: one.completion }));
}

function choose(at) {
  current = at;
  const options = byId("groups").children;
  for (let place = 0; place < options.length; place += 1) options[place].setAttribute("aria-selected", String(place === at));
  const group = listed[at];
  if (!group) { byId("group").replaceChildren(element("p", { class: "absent", text: rollouts.length ? "No group fits." : "No rollouts were logged, or their files are lost." })); return; }
  byId("groups").setAttribute("aria-activedescendant", `group-${at}`);
  options[at].scrollIntoView({ block: "nearest" });
  const more = group.size > group.rollouts.length ? [element("p", { class: "sub", text: `${group.rollouts.length} of ${group.size} rollouts of the group are shown.` })] : [];
  byId("group").replaceChildren(element("h2", { text: `Step ${group.step}, ${group.distribution}` }), element("p", { class: "sub", text: `stage ${group.stage} · prompt ${group.uid} · visit ${group.visit + 1} of it` }),
    element("h3", { text: "Prompt" }), element("pre", { text: group.prompt }), element("h3", { text: "Completions" }), ...more, ...group.rollouts.map(card));
}

byId("groups").addEventListener("keydown", (event) => {
  const next = { ArrowDown: current + 1, ArrowUp: current - 1, Home: 0, End: listed.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  if (next >= 0 && next < listed.length) choose(next);
});
for (const id of ["rollout-search", "rollout-distribution", "rollout-outcome"]) byId(id).addEventListener("input", listGroups);
fill(byId("rollout-distribution"), [...new Set(rollouts.map((one) => one.distribution))]);

// --- events ----------------------------------------------------------------------------------------------------

function listEvents() {
  const words = byId("event-search").value.toLowerCase().split(/\s+/).filter(Boolean), severity = byId("event-severity").value;
  const rows = [...document.querySelectorAll("#events-table tbody tr")];
  for (const row of rows) row.hidden = (severity && row.dataset.severity !== severity) || !words.every((word) => row.textContent.toLowerCase().includes(word));
  byId("event-count").textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} events`;
}
for (const id of ["event-search", "event-severity"]) byId(id).addEventListener("input", listEvents);

listPrompts();
listGroups();
listEvents();
open(location.hash.slice(1));
