// Two pictures side by side: what differs between them, and which is better.

import { get, picturePath, post } from "./api.js";
import { byId, button, el, refill } from "./dom.js";
import { say, trying } from "./messages.js";
import { places } from "./picks.js";
import { jobs, pictures } from "./store.js";
import { imageOf } from "./tile.js";

const dialog = () => byId("compare");
const seen = new Set();

export async function openCompare(pair) {
  draw(pair, false);
  if (!dialog().open) dialog().showModal();
  await trying(async () => {
    const recipes = await Promise.all(pair.map((picture) => get(`${picturePath(picture)}/recipe`)));
    refill(byId("differences"), differences(recipes));
  });
}

function draw(pair, blind) {
  const sides = pair.map((picture, index) => el("figure", {}, frame(picture),
    button(index ? "This one is better →" : "← This one is better", () => choose(pair, index ? "b" : "a", blind), { id: index ? "better-b" : "better-a", class: "primary" })));
  refill(dialog(),
    el("div", { class: "viewer-head" }, el("h2", {}, blind ? "Which is better?" : "Side by side"), el("span", { class: "grow" }),
      button("Close", () => dialog().close(), { class: "quiet" })),
    blind ? el("p", { class: "hint" }, jobs.get(pair[0].job)?.prompt || "") : null,
    el("div", { class: "sides" }, ...sides),
    el("div", { class: "row wrap middle" }, button("Both alike", () => choose(pair, "tie", blind), { id: "better-tie" })),
    el("div", { id: "differences" }));
}

function frame(picture) {
  const image = imageOf(picture, { loading: "eager" });
  return el("div", { class: "frame" }, image);
}

async function choose(pair, choice, blind) {
  const [a, b] = places(pair);
  const kept = await trying(() => post("/pairs", { a, b, choice }));
  if (!kept) return;
  if (blind && nextPair()) return;
  dialog().close();
  say(blind ? "That were all pairs for now. Thank you, it is kept." : "Kept.");
}

function differences([one, other]) {
  const flat = (recipe) => ({ words: recipe.prompt, "leave out": recipe.negative || "", seed: recipe.seed, model: recipe.model || "", ...recipe.settings,
    LoRAs: recipe.loras.map((lora) => `${lora.name} ${lora.strength}`).join(", ") });
  const [left, right] = [flat(one), flat(other)];
  const names = [...new Set([...Object.keys(left), ...Object.keys(right)])].filter((name) => String(left[name] ?? "") !== String(right[name] ?? ""));
  if (!names.length) return el("p", { class: "hint" }, "Made in the same way.");
  return el("table", { class: "differences" }, ...names.map((name) => el("tr", {}, el("td", {}, String(left[name] ?? "usual")),
    el("th", { scope: "row" }, name.replaceAll("_", " ")), el("td", {}, String(right[name] ?? "usual")))));
}

// Pairs of one prompt, in any order and on any side, each once.
function nextPair() {
  const groups = new Map();
  for (const picture of pictures()) {
    const prompt = jobs.get(picture.job).prompt;
    groups.set(prompt, [...(groups.get(prompt) || []), picture]);
  }
  const pairs = [];
  for (const group of groups.values()) {
    for (let i = 0; i < group.length; i++) {
      for (let j = i + 1; j < group.length; j++) {
        const key = `${group[i].job}/${group[i].number} ${group[j].job}/${group[j].number}`;
        if (!seen.has(key)) pairs.push([key, group[i], group[j]]);
      }
    }
  }
  if (!pairs.length) return false;
  const [key, one, other] = pairs[Math.floor(Math.random() * pairs.length)];
  seen.add(key);
  draw(Math.random() < 0.5 ? [one, other] : [other, one], true);
  if (!dialog().open) dialog().showModal();
  return true;
}

export function startCompare() {
  byId("rate-pairs").addEventListener("click", () => {
    if (!nextPair()) say("There is nothing to compare yet: make two pictures of the same words.");
  });
}
