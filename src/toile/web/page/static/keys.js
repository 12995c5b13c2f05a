// What keys do, and the list of them.

import { cancelCurrent } from "./board.js";
import { byId, button, el, refill } from "./dom.js";
import { make } from "./making.js";
import { currentTab } from "./tabs.js";
import { rate, step, vary, viewed } from "./viewer.js";

const KEYS = [
  ["Ctrl + Enter", "make pictures"],
  ["/", "to the prompt"],
  ["Esc", "cancel what is being drawn; close what is open"],
  ["← →", "with a picture open: the one before, the next one"],
  ["L, N", "with a picture open: like it, not this"],
  ["V", "with a picture open: variations"],
  ["arrow keys, space", "on the brush: move, paint"],
  ["← →", "on the tabs at the top: the next one; on a chart: the values of a step"],
  ["?", "this list"],
];

const isTyping = (event) => event.target.closest?.("input:not([type=range]):not([type=checkbox]):not([type=radio]), textarea, select") !== null;

function inViewer(event) {
  if (event.target.closest?.("input[type=range]")) return false;
  const acts = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), l: () => rate(1), n: () => rate(-1), v: vary };
  const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act) act();
  return Boolean(act);
}

export function showKeys() {
  refill(byId("keys"), el("h2", { id: "keys-title" }, "Keys"),
    el("dl", { class: "recipe" }, ...KEYS.flatMap(([key, does]) => [el("dt", {}, key), el("dd", {}, does)])),
    button("Close", () => byId("keys").close(), { class: "primary" }));
  byId("keys").showModal();
}

export function startKeys() {
  byId("open-keys").addEventListener("click", showKeys);
  document.addEventListener("keydown", (event) => {
    if (currentTab() !== "design") {
      if (event.key === "?" && !isTyping(event)) showKeys();
      return;
    }
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      make();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event)) return;
    if (viewed() ? inViewer(event) : onPage(event)) event.preventDefault();
  });
}

function onPage(event) {
  if (document.querySelector("dialog[open]")) return false;
  if (event.key === "/") byId("prompt").focus();
  else if (event.key === "?") showKeys();
  else if (event.key === "Escape") cancelCurrent();
  else return false;
  return true;
}
