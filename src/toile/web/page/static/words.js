// The words of the prompt: how they are read, and a slider for each.

import { post } from "./api.js";
import { currentJob } from "./board.js";
import { byId, button, debounced, el, refill } from "./dom.js";
import { chosenModel } from "./form.js";
import { redraw } from "./making.js";
import { on } from "./store.js";
import { hideWord, showWord } from "./veil.js";

let words = [];
let written = null; // the prompt that the sliders wrote themselves
let asked = 0;

async function read() {
  const prompt = byId("prompt").value;
  if (prompt === written) return;
  const number = ++asked;
  let answer;
  try {
    answer = await post("/words", { prompt, model: chosenModel().name });
  } catch (error) {
    if (number === asked) tell(error.message, true);
    return;
  }
  if (number !== asked) return; // more was typed meanwhile
  words = answer.words;
  tell(answer.told, false);
  draw();
}

function tell(text, isWrong) {
  byId("told").textContent = text;
  byId("told").classList.toggle("wrong", isWrong);
}

function draw() {
  const rows = words.map((word, index) => (word.kind === "word" ? slider(word, index) : null)).filter(Boolean);
  if (!rows.length) refill(byId("word-sliders"), el("p", { class: "hint" }, "Type words first; each gets a slider."));
  else refill(byId("word-sliders"), ...rows);
}

function slider(word, index) {
  const told = el("output", {}, shown(word.weight));
  const id = `word-${index}`;
  const range = el("input", { type: "range", id, min: "-1", max: "2", step: "0.05", value: String(word.weight), list: "weights" });
  const set = (weight) => {
    word.weight = weight;
    range.value = String(weight);
    told.textContent = shown(weight);
    write();
  };
  range.addEventListener("input", () => set(Number(range.value)));
  range.addEventListener("change", redrawSoon);
  const reset = button("↺", () => {
    set(1);
    redrawSoon();
  }, { class: "quiet", "aria-label": `${word.text} as much as usual`, title: "as much as usual" });
  const pointed = { onpointerenter: () => showWord(word.text), onpointerleave: hideWord, onfocusin: () => showWord(word.text), onfocusout: hideWord };
  return el("div", { class: "row word", ...pointed }, el("label", { for: id }, word.text), range, told, reset);
}

const shown = (weight) => String(Math.round(weight * 100) / 100);

async function writeNow() {
  const answer = await post("/weights", { words, prompt: byId("prompt").value });
  written = answer.prompt;
  byId("prompt").value = written;
}

let writing = Promise.resolve();
const write = debounced(80, () => {
  writing = writeNow();
});

const redrawSoon = debounced(200, async () => {
  await writing;
  const job = currentJob();
  if (byId("redraw").checked && job) redraw(job.pictures[0]?.seed || job.seed);
});

export function startWords() {
  byId("prompt").addEventListener("input", debounced(250, read));
  on("prompt", read);
  on("model", () => {
    written = null;
    read();
  });
  read();
}
