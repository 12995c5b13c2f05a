// Runs: how far and how good, curves and strips; several of them side by side.

import { get, post } from "./api.js";
import { count, loss } from "./amounts.js";
import { chart, curvesOf, replaceChart, smooth } from "./chart.js";
import { byId, button, el, isNarrow, refill } from "./dom.js";
import { trying } from "./messages.js";
import { on } from "./store.js";
import { currentTab, openTab } from "./tabs.js";
import { tell } from "./training.js";

const SECONDS_BETWEEN_LOOKS = 2;
const FIRST_SETTINGS = ["base", "data.path", "data.caption", "data.trigger", "lora.rank", "loop.steps", "loop.batch_size", "loop.learning_rate", "seed"];
let runs = [];
let shown = null; // id of the run whose details are seen
const ticked = new Set();

export async function start(panel) {
  refill(panel, el("div", { class: "left" }, el("section", { class: "card", "aria-labelledby": "r-title" }, el("h2", { id: "r-title" }, "Runs"),
    el("p", { class: "hint" }, "Tick two or more to compare them."), el("ul", { id: "r-list", class: "run-list" }))),
    el("div", { class: "right" }, el("section", { id: "r-shown", class: "card", "aria-label": "What became of it", tabindex: "-1" })));
  on("tab", (name) => name === "runs" && look(true));
  on("trained", () => currentTab() === "runs" && look(true));
}

export async function openRun(run) {
  shown = run;
  ticked.clear();
  await openTab("runs");
}

let timer;
async function look(anew = false) {
  clearTimeout(timer);
  const answered = await trying(async () => {
    ({ runs } = await get("/runs"));
    if (!runs.some((run) => run.id === shown)) shown = runs[0]?.id;
    drawList();
    await drawShown(anew);
    return true;
  });
  clearTimeout(timer);
  if (answered && currentTab() === "runs") timer = setTimeout(look, SECONDS_BETWEEN_LOOKS * 1000);
}

const heldOut = (found, step) => (found ? `${loss(found.loss)}${step ? ` at step ${count(found.step)}` : ""}` : "");
const stepsOf = (run) => `${count(run.steps_done)}${run.steps_asked ? ` of ${count(run.steps_asked)}` : ""} steps`;

const aboutRun = (run) => [run.task, run.state, stepsOf(run), run.best ? `held out ${heldOut(run.best)}` : ""].filter(Boolean).join(" · ");

function drawList() {
  for (const id of ticked) if (!runs.some((run) => run.id === id)) ticked.delete(id);
  const list = JSON.stringify([runs.map((run) => [run.id, aboutRun(run)]), [...ticked], shown]);
  if (list === byId("r-list").dataset.drawn) return; // what is being clicked on stays where it is
  byId("r-list").dataset.drawn = list;
  const focused = document.activeElement?.dataset?.key;
  refill(byId("r-list"), ...runs.map(item));
  if (!runs.length) byId("r-list").append(el("li", { class: "hint" }, "No runs yet. Those of toile train are shown with --runs FOLDER."));
  if (focused) [...document.querySelectorAll("#r-list [data-key]")].find((node) => node.dataset.key === focused)?.focus();
}

function item(run) {
  const box = el("input", { type: "checkbox", class: "pick", "aria-label": `Compare ${run.name}`, "data-key": `tick ${run.id}`, onchange: (event) => {
    if (event.target.checked) ticked.add(run.id);
    else ticked.delete(run.id);
    look(true);
  } });
  box.checked = ticked.has(run.id);
  const name = el("button", { type: "button", class: "run", "data-key": `open ${run.id}`, "aria-current": String(run.id === shown && ticked.size < 2), onclick: () => {
    shown = run.id;
    ticked.clear();
    look(true).then(() => isNarrow() && byId("r-shown").scrollIntoView({ block: "start" }));
  } }, el("strong", {}, run.name), el("span", { class: "hint" }, aboutRun(run)));
  return el("li", {}, box, name);
}

let seen = "";
let wentOn = false;
async function drawShown(anew) {
  const several = [...ticked];
  const key = several.length > 1 ? several.join() : shown;
  if (!key) return refill(byId("r-shown"), el("p", { class: "hint" }, "What was trained is seen here."));
  // What does not go on any more has been drawn to its end.
  const goesOn = runs.some((run) => key.includes(run.id) && run.state === "running");
  if (!anew && !goesOn && !wentOn && seen.startsWith(key)) return;
  wentOn = goesOn;
  if (several.length > 1) {
    const found = await get(`/comparisons?${several.map((id) => `run=${id}`).join("&")}`);
    if (key !== seen || anew) refill(byId("r-shown"), ...comparison(found));
    seen = key;
    replaceChart(byId("r-chart"), together(found.runs));
    return;
  }
  const run = await get(`/runs/${shown}`);
  const shape = `${key} ${run.state} ${run.sheets}`;
  if (shape !== seen || anew) refill(byId("r-shown"), ...details(run));
  seen = shape;
  byId("r-facts").replaceWith(summary(run));
  replaceChart(byId("r-chart"), curvesOf(run));
}

function summary(run) {
  const rows = { state: run.note ? `${run.state}: ${run.note}` : run.state, steps: stepsOf(run), "held out, best": run.best ? `${heldOut(run.best, true)} (${run.best.weights})` : "", "held out, last": heldOut(run.last, true),
    speed: run.examples_per_second ? `${count(run.examples_per_second.toPrecision(3))} pictures/s` : "", "skipped steps": run.skipped_steps ? count(run.skipped_steps) : "", when: run.when || "", folder: run.folder };
  return el("dl", { class: "recipe", id: "r-facts" }, ...rowsOf(Object.entries(rows)));
}

const rowsOf = (entries) => entries.filter(([, value]) => value !== "").flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);

function details(run) {
  const first = FIRST_SETTINGS.filter((key) => run.recipe[key] && run.recipe[key] !== "none").map((key) => [key, run.recipe[key]]);
  return [el("div", { class: "board-bar" }, el("h2", {}, run.name),
    run.can_resume ? button("Resume", () => trying(async () => {
      tell(await post(`/training/${run.id}/resume`));
      await openTab("train");
    }), { id: "r-resume" }) : null),
  el("dl", { id: "r-facts" }), run.damage ? el("p", { class: "trouble" }, run.damage) : null,
  el("h3", {}, "Loss"), el("div", { id: "r-chart" }),
  run.sheets.length ? el("h3", {}, "Samples: the same words and noise, step by step") : null,
  el("div", { class: "sheets" }, ...run.sheets.map((step) => el("figure", {}, el("figcaption", {}, `step ${count(step)}`),
    el("img", { src: `/studio/runs/${run.id}/sheets/${step}.png`, alt: `Samples at step ${step}`, loading: "lazy", class: "small-picture" })))),
  el("h3", {}, "Settings"), el("dl", { class: "recipe" }, ...rowsOf(first)),
  el("details", {}, el("summary", {}, "All settings"), el("dl", { class: "recipe" }, ...rowsOf(Object.entries(run.recipe))))];
}

// Each run has a colour: what it learnt from faintly, what was held out with dots.
function together(found) {
  return chart(found.flatMap((run, index) => {
    const lines = run.curves.held_out;
    const who = run.best && lines[run.best.weights] ? run.best.weights : Object.keys(lines)[0];
    const others = who ? [{ name: `${run.name}, held out`, points: lines[who], colour: index, dots: true }] : [];
    return [{ name: who ? "" : run.name, points: smooth(run.curves.training), colour: index, faint: true }, ...others];
  }), "Losses", 0);
}

function comparison({ runs: found, differences, not_comparable: not }) {
  const head = el("tr", {}, el("th", {}, ""), ...found.map((run) => el("th", { scope: "col" }, run.name)));
  const line = (name, values) => el("tr", {}, el("th", { scope: "row" }, name), ...values.map((value) => el("td", {}, value)));
  const scores = [["state", (run) => run.state], ["steps", stepsOf], ["held out, best", (run) => heldOut(run.best, true)], ["held out, last", (run) => heldOut(run.last, true)],
    ["pictures/s", (run) => (run.examples_per_second ? run.examples_per_second.toPrecision(3) : "")]];
  const rows = Object.entries(differences);
  return [el("h2", {}, `${found.length} runs`), el("div", { id: "r-chart" }),
    not.length ? el("p", { class: "trouble", id: "r-not" }, `Their held-out losses cannot be compared, as they measure different things: ${not.join(", ")}.`) : null,
    el("div", { class: "grid-scroll" }, el("table", { class: "compared", id: "r-compared" }, el("thead", {}, head),
      el("tbody", {}, ...scores.map(([name, of]) => line(name, found.map(of))), ...rows.map(([key, values]) => line(key, values))))),
    rows.length ? null : el("p", { class: "hint" }, "Their recipes are the same.")];
}
