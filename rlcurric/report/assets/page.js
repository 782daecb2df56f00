
// --- figures of the report ---------------------------------------------------------------------------------------

function figureOf(key) { return within() ? narrowed(plots[key]) : plots[key]; }
function drawMore() { if (visible(byId("metric-plot"))) drawMetric(); }

// --- all stages, or one: it sets the range of every figure over steps, and only what is in it counts for the other axis ---

const stages = dataOf("stages");
const TYPES = { f4: Float32Array, f8: Float64Array, i1: Int8Array, u1: Uint8Array, i2: Int16Array, u2: Uint16Array, i4: Int32Array, u4: Uint32Array };
const stageShown = () => stages[document.body.dataset.span];

function within() {
  const stage = stageShown();
  return stage ? [stage.first - 0.5, stage.last + 0.5] : null;
}

function listOf(values) {
  return values.bdata ? new TYPES[values.dtype](Uint8Array.from(atob(values.bdata), (one) => one.charCodeAt(0)).buffer) : values;
}

function cut(trace, [low, high]) {
  if (trace.type === "heatmap") return trace;
  const x = listOf(trace.x), kept = [...x.keys()].filter((at) => x[at] >= low && x[at] <= high), result = { ...trace };
  for (const name of ["x", "y", "width", "text"]) {
    if (!trace[name] || typeof trace[name] !== "object") continue;
    const values = listOf(trace[name]);
    result[name] = kept.map((at) => values[at]);
  }
  if (trace.type === "scatter" && trace.mode === "lines" && kept.length < 3) result.mode = "lines+markers";
  return result;
}

function narrowed(figure) {
  if (!figure.layout.meta || !figure.layout.meta.steps) return figure;
  const range = within(), data = figure.data.map((trace) => cut(trace, range)), word = { xref: "x", yref: "paper", x: (range[0] + range[1]) / 2, showarrow: false, font: { size: 11, color: "var(--muted)" } };
  const annotations = [{ ...word, y: 1, yanchor: "bottom", text: stageShown().name.replaceAll("&", "&amp;").replaceAll("<", "&lt;") }];
  if (data.every((trace) => trace.x.length === 0)) annotations.push({ ...word, y: 0.5, font: { size: 13, color: "var(--muted)" }, text: "nothing was measured in this stage" });
  return { data, layout: { ...figure.layout, annotations, xaxis: { ...figure.layout.xaxis, range }, yaxis: { ...figure.layout.yaxis, ...calm(data, figure.layout) } } };
}

// As the report's own axes: lines that hardly differ get one on which they do not, and small numbers no letter for a unit.
function calm(data, layout) {
  if (layout.yaxis.range || layout.yaxis.tickformat || layout.yaxis.type !== "linear" || data.some((trace) => trace.type !== "scatter" || trace.stackgroup)) return {};
  const values = data.flatMap((trace) => [...trace.y]).filter(Number.isFinite);
  if (!values.length) return {};
  const low = Math.min(...values), high = Math.max(...values), most = Math.max(Math.abs(low), Math.abs(high)), middle = (low + high) / 2;
  const form = most < 1e-3 ? { exponentformat: "e" } : {};
  if (most === 0) return { range: [0, 1] };
  return high - low < 0.01 * most ? { ...form, range: [middle - 0.01 * most, middle + 0.01 * most] } : form;
}

for (const choice of document.querySelectorAll("select.span")) {
  choice.addEventListener("change", () => {
    document.body.dataset.span = choice.value;
    for (const other of document.querySelectorAll("select.span")) other.value = choice.value;
    drawVisible();
  });
}

// --- any metric ------------------------------------------------------------------------------------------------

const metrics = dataOf("metrics");
const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);

function drawMetric() {
  const key = byId("metric").value;
  if (!key) return;
  const [place, values] = metrics.columns[key], inside = within();
  const steps = floats(metrics.steps[place]), kept = [...steps.keys()].filter((at) => !inside || (steps[at] >= inside[0] && steps[at] <= inside[1]));
  const y = floats(values);
  const trace = { x: kept.map((at) => steps[at]), y: kept.map((at) => y[at]), mode: kept.length < 60 ? "lines+markers" : "lines", name: key.replaceAll("<", "&lt;"), line: { color: "var(--c1)", width: 1.6 }, type: "scatter" };
  show(byId("metric-plot"), { data: [trace], layout: { height: 320, xaxis: { title: { text: "step" } } } });
}

for (const key of Object.keys(metrics.columns).sort()) byId("metric").append(element("option", { text: key }));
byId("metric").addEventListener("change", drawMetric);

// --- a run that goes on (only under --serve) ---------------------------------------------------------------------

if (document.body.dataset.live) {
  const news = byId("news");
  news.querySelector("button").addEventListener("click", () => location.reload());
  setInterval(async () => {
    const answer = await fetch("version").catch(() => null);
    if (!answer || !answer.ok || (await answer.text()) === document.body.dataset.live) return;
    news.querySelector("span").textContent = "The run went on since this page was made.";
    news.hidden = false;
  }, 5000);
}
