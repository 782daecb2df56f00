
// --- figures of a comparison: by axis, then by metric -----------------------------------------------------------

function figureOf(key) { return plots[document.body.dataset.axis][key]; }

function drawMore() {
  for (const node of document.querySelectorAll("[data-plot]")) {
    const there = Boolean(figureOf(node.dataset.plot));
    node.hidden = !there;
    node.nextElementSibling.hidden = there;
  }
}

// --- axis ------------------------------------------------------------------------------------------------------

const axes = [...document.querySelectorAll('[name="axis"]')];

function changeAxis(name) {
  document.body.dataset.axis = name;
  for (const one of axes) one.checked = one.value === name;
  drawMore();
  drawVisible();
}

for (const one of axes) one.addEventListener("change", () => changeAxis(one.value));
document.addEventListener("keydown", (event) => {
  if (event.key !== "x" || event.ctrlKey || event.metaKey || event.altKey) return;
  changeAxis(axes[(axes.findIndex((one) => one.checked) + 1) % axes.length].value);
});

drawMore();
open(location.hash.slice(1));
