// Light, dark, or as the system has it.

import { byId } from "./dom.js";

const KEY = "toile-theme";

function apply(theme) {
  if (theme) document.documentElement.dataset.theme = theme;
  else delete document.documentElement.dataset.theme;
}

export function startTheme() {
  let theme = "";
  try {
    theme = localStorage.getItem(KEY) || "";
  } catch {
    // kept nowhere, then
  }
  apply(theme);
  byId("theme").value = theme;
  byId("theme").addEventListener("change", (event) => {
    apply(event.target.value);
    try {
      localStorage.setItem(KEY, event.target.value);
    } catch {
      // kept nowhere, then
    }
  });
}
