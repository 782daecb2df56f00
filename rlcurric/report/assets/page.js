
// --- figures of the report ---------------------------------------------------------------------------------------

function figureOf(key) { return plots[key]; }
function drawMore() { if (visible(byId("metric-plot"))) drawMetric(); }

// --- any metric ------------------------------------------------------------------------------------------------

const metrics = dataOf("metrics");
const floats = (text) => new Float32Array(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);

function drawMetric() {
  const key = byId("metric").value;
  if (!key) return;
  const x = floats(metrics.steps), y = floats(metrics.columns[key]);
  const kept = [...x.keys()].filter((at) => !Number.isNaN(y[at]));
  const trace = { x: kept.map((at) => x[at]), y: kept.map((at) => y[at]), mode: kept.length < 60 ? "lines+markers" : "lines", name: key.replaceAll("<", "&lt;"), line: { color: "var(--c1)", width: 1.6 }, type: "scatter" };
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
