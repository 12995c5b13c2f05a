// The tabs at the top. What engineers need is loaded when it is first looked at.

import { byId } from "./dom.js";
import { trying } from "./messages.js";
import { emit } from "./store.js";

const LOADED = { train: () => import("./train.js"), runs: () => import("./runs.js"), reports: () => import("./reports.js") };
const NAMES = ["design", ...Object.keys(LOADED)];
const started = new Set(["design"]);
let current = "design";

export const currentTab = () => current;

export async function openTab(name, { focus = false } = {}) {
  current = NAMES.includes(name) ? name : "design";
  for (const each of NAMES) {
    const tab = byId(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === current));
    tab.tabIndex = each === current ? 0 : -1;
    byId(each).hidden = each !== current;
  }
  if (focus) byId(`tab-${current}`).focus();
  const hash = current === "design" ? "" : `#${current}`;
  if (window.location.hash !== hash) window.history.replaceState(null, "", hash || window.location.pathname);
  const opened = current;
  if (!started.has(opened)) {
    started.add(opened);
    await trying(async () => (await LOADED[opened]()).start(byId(opened)));
  }
  emit("tab", opened);
}

export function startTabs() {
  for (const name of NAMES) byId(`tab-${name}`).addEventListener("click", () => openTab(name));
  byId("tabs").addEventListener("keydown", (event) => {
    const at = NAMES.indexOf(current);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: NAMES.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    openTab(NAMES[(to + NAMES.length) % NAMES.length], { focus: true });
  });
  window.addEventListener("hashchange", () => openTab(window.location.hash.slice(1)));
  if (window.location.hash) openTab(window.location.hash.slice(1));
}
