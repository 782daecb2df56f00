"use strict";
// Before the first paint: what was chosen last, else what the system asks for.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("rlcurric-theme"); } catch (error) { /* files may have no storage */ }
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = chosen || (dark ? "dark" : "light");
})();
