"use strict";
// Tabs, theme and figures of every page, which has `figureOf` and `drawMore` besides. Everything that comes from a run is set as text, never as HTML.

const byId = (id) => document.getElementById(id);
const dataOf = (key) => JSON.parse(byId(`data-${key}`).textContent);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "text") made.textContent = value;
    else if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

// --- figures ---------------------------------------------------------------------------------------------------

const plots = dataOf("plots");
const CONFIG = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["lasso2d", "select2d", "autoScale2d"] };

function painted(value, style) {
  if (typeof value === "string") return value.startsWith("var(--") ? style.getPropertyValue(value.slice(4, -1)).trim() : value;
  if (Array.isArray(value)) return value.map((one) => painted(one, style));
  if (value && typeof value === "object") return Object.fromEntries(Object.entries(value).map(([key, one]) => [key, painted(one, style)]));
  return value;
}

function merged(base, over) {
  const result = { ...base };
  for (const [key, value] of Object.entries(over)) {
    const both = value && typeof value === "object" && !Array.isArray(value) && result[key];
    result[key] = both ? merged(result[key], value) : value;
  }
  return result;
}

function look(height) {
  const axis = { gridcolor: "var(--grid)", linecolor: "var(--line)", zerolinecolor: "var(--line)", tickcolor: "var(--line)", automargin: true, title: { standoff: 8, font: { size: 12, color: "var(--muted)" } } };
  return {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { family: getComputedStyle(document.body).fontFamily, size: 12.5, color: "var(--ink)" },
    margin: { l: 8, r: 10, t: 24, b: 8 }, hovermode: "x unified",
    hoverlabel: { bgcolor: "var(--card)", bordercolor: "var(--line)", font: { color: "var(--ink)", size: 12.5 }, namelength: 40 },
    legend: { orientation: "h", x: 0, xanchor: "left", y: -46 / (height - 84), yanchor: "top", traceorder: "normal", font: { size: 12 }, bgcolor: "rgba(0,0,0,0)" },
    xaxis: { ...axis, showgrid: false, ticks: "outside", ticklen: 4, showline: true }, yaxis: { ...axis, ticks: "" },
  };
}

function show(node, figure) {
  const style = getComputedStyle(document.documentElement);
  Plotly.react(node, painted(figure.data, style), painted(merged(look(figure.layout.height), figure.layout), style), CONFIG);
}

const visible = (node) => node.offsetParent !== null;

function drawVisible() {
  for (const node of document.querySelectorAll("[data-plot]")) {
    if (!visible(node)) continue;
    const figure = figureOf(node.dataset.plot), state = `${document.documentElement.dataset.theme} ${document.body.dataset.axis || ""} ${document.body.dataset.span || ""}`;
    if (node.dataset.drawn === state) { Plotly.Plots.resize(node); continue; }
    show(node, figure);
    node.dataset.drawn = state;
  }
  drawMore();
}

// --- theme -----------------------------------------------------------------------------------------------------

function changeTheme() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try { localStorage.setItem("rlcurric-theme", next); } catch (error) { /* files may have no storage */ }
  drawVisible();
}
byId("theme").addEventListener("click", changeTheme);

// --- tabs ------------------------------------------------------------------------------------------------------

const tabs = [...document.querySelectorAll('[role="tab"]')];

function open(name, focus = false) {
  const chosen = tabs.find((tab) => tab.getAttribute("aria-controls") === name) || tabs[0];
  for (const tab of tabs) {
    tab.setAttribute("aria-selected", String(tab === chosen));
    tab.tabIndex = tab === chosen ? 0 : -1;
    byId(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
  }
  if (focus) chosen.focus();
  drawVisible();
}

function go(name, focus = false) {
  if (location.hash !== `#${name}`) history.replaceState(null, "", `#${name}`);
  open(name, focus);
  scrollTo(0, 0);
}

for (const tab of tabs) tab.addEventListener("click", () => go(tab.getAttribute("aria-controls")));
document.querySelector('[role="tablist"]').addEventListener("keydown", (event) => {
  const at = tabs.findIndex((tab) => tab === document.activeElement);
  const next = { ArrowRight: at + 1, ArrowLeft: at - 1 + tabs.length, Home: 0, End: tabs.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  go(tabs[next % tabs.length].getAttribute("aria-controls"), true);
});
addEventListener("hashchange", () => { open(location.hash.slice(1)); scrollTo(0, 0); });

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=radio]), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "t") changeTheme();
  else if (/^[1-9]$/.test(event.key) && tabs[event.key - 1]) go(tabs[event.key - 1].getAttribute("aria-controls"), true);
  else if (event.key === "/") {
    const search = document.querySelector('[role="tabpanel"]:not([hidden]) input[type="search"]');
    if (search) { event.preventDefault(); search.focus(); }
  }
});
