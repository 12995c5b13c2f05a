// What the controls say, as a request; and a request or a recipe, back in the controls.

import { get } from "./api.js";
import { begun, beginWith, endBeginning } from "./begin.js";
import { byId, button, el, refill } from "./dom.js";
import { emit, facts, model } from "./store.js";

const SMALL_PIXELS = 256 * 256; // up to here remembering where words act costs next to nothing
const ranges = ["steps", "guidance"];
let quality = null;
let touched = new Set(); // sliders that were moved: they win over the quality
let loras = [];
let more = {}; // settings of a recipe that have no control of their own
let toward = null;

export const chosenModel = () => model(byId("model").value);

export function startForm() {
  refill(byId("model"), ...facts.models.map((each) => el("option", { value: each.name }, each.name)));
  byId("model-row").hidden = facts.models.length < 2;
  refill(byId("sampler"), ...facts.samplers.map((each) => el("option", { value: each.name, title: each.description }, each.label)));
  drawKnownLoras();
  byId("steps").max = String(Math.min(facts.limits.steps, 60));
  byId("num").max = String(Math.min(facts.limits.pictures, 16));
  byId("model").addEventListener("change", () => {
    usual();
    emit("model");
  });
  for (const id of [...ranges, "sampler", "width", "height"]) {
    byId(id).addEventListener("input", () => {
      touched.add(id);
      tell();
    });
  }
  byId("any-seed").addEventListener("click", () => (byId("seed").value = ""));
  byId("usual").addEventListener("click", usual);
  byId("add-lora").addEventListener("click", () => addLora(byId("lora").value, 1));
  usual();
}

// The model's own values; those of its quality, if one is chosen.
function usual() {
  const now = chosenModel();
  quality = "standard" in now.qualities ? "standard" : null;
  touched = new Set();
  more = {};
  toward = null;
  loras = [];
  byId("width").step = byId("height").step = String(now.multiple);
  byId("maps").checked = now.width * now.height <= SMALL_PIXELS;
  byId("quality-row").hidden = !Object.keys(now.qualities).length;
  refill(byId("quality"), ...Object.keys(now.qualities).map((name) => qualityChoice(name)));
  setValues({ ...now, ...(now.qualities[quality] || {}) });
  drawLoras();
  drawMore();
}

function qualityChoice(name) {
  const input = el("input", { type: "radio", name: "quality", value: name, id: `quality-${name}`, onchange: () => {
    quality = name;
    touched = new Set(["width", "height"].filter((id) => touched.has(id)));
    setValues({ ...chosenModel(), width: byId("width").value, height: byId("height").value, ...chosenModel().qualities[name] });
  } });
  input.checked = name === quality;
  return el("label", {}, input, el("span", {}, name));
}

function setValues(values) {
  for (const id of [...ranges, "sampler", "width", "height"]) {
    if (values[id] === undefined || values[id] === null) continue;
    const control = byId(id);
    if (ranges.includes(id) && Number(values[id]) > Number(control.max)) control.max = String(values[id]);
    if (ranges.includes(id) && Number(values[id]) < Number(control.min)) control.min = String(values[id]);
    control.value = String(values[id]);
  }
  tell();
}

function tell() {
  for (const id of ranges) byId(`${id}-told`).textContent = byId(id).value;
}

function drawKnownLoras() {
  refill(byId("lora"), ...(facts.loras.length ? facts.loras : ["none here"]).map((name) => el("option", {}, name)));
  byId("lora").disabled = byId("add-lora").disabled = !facts.loras.length;
}

// There may be a new one.
export async function refreshLoras() {
  facts.loras = (await get("/facts")).loras;
  drawKnownLoras();
}

function addLora(name, strength) {
  if (!loras.some((lora) => lora.name === name)) loras.push({ name, strength });
  drawLoras();
}

// Pictures with a LoRA of a model, which is chosen if it is served.
export function useLora(name, base) {
  if (base && base !== byId("model").value) {
    byId("model").value = base;
    byId("model").dispatchEvent(new Event("change"));
  }
  addLora(name, 1);
}

function drawLoras() {
  refill(byId("loras"), ...loras.map((lora, index) => {
    const told = el("output", {}, String(lora.strength));
    const slider = el("input", { type: "range", min: "-1", max: "2", step: "0.05", value: String(lora.strength), "aria-label": `Strength of ${lora.name}`, oninput: (event) => {
      lora.strength = Number(event.target.value);
      told.textContent = event.target.value;
    } });
    return el("div", { class: "row lora" }, el("span", {}, lora.name), slider, told, button("Remove", () => {
      loras.splice(index, 1);
      drawLoras();
    }, { "aria-label": `Remove ${lora.name}` }));
  }));
}

function drawMore() {
  const chips = Object.entries(more).map(([name, value]) => button(`${name.replaceAll("_", " ")} ${value} ✕`, () => {
    delete more[name];
    drawMore();
  }, { class: "chip", "aria-label": `Take away ${name} ${value}` }));
  if (toward) {
    chips.push(button(`variation ${toward.share} ✕`, () => {
      toward = null;
      drawMore();
    }, { class: "chip", "aria-label": "Take the variation away" }));
  }
  refill(byId("more"), ...chips);
}

// The request that the controls ask for.
export async function readForm() {
  const settings = { ...more };
  const now = chosenModel();
  for (const id of [...ranges, "sampler", "width", "height"]) {
    const value = id === "sampler" ? byId(id).value : Number(byId(id).value);
    const own = (now.qualities[quality] || {})[id] ?? now[id];
    if (value !== own || touched.has(id)) settings[id] = value;
  }
  const start = await begun();
  if (start.image) settings.strength = Number(byId("strength").value);
  return {
    prompt: byId("prompt").value,
    model: now.name,
    negative: byId("negative").value || null,
    seed: byId("seed").value.trim() || null,
    num: Number(byId("num").value) || 1,
    quality,
    settings,
    loras,
    toward,
    maps: byId("maps").checked,
    ...start,
  };
}

// Fills the controls from a recipe, so that the same request would be made again.
export async function fillForm(recipe, { words = true } = {}) {
  if (recipe.model && facts.models.some((each) => each.name === recipe.model)) byId("model").value = recipe.model;
  usual();
  quality = null;
  for (const choice of document.querySelectorAll('input[name="quality"]')) choice.checked = false;
  if (words) byId("prompt").value = recipe.prompt;
  byId("negative").value = recipe.negative || "";
  byId("seed").value = recipe.seed === null ? "" : recipe.seed;
  byId("num").value = "1";
  const controls = new Set([...ranges, "sampler", "width", "height", "strength"]);
  more = Object.fromEntries(Object.entries(recipe.settings).filter(([name]) => !controls.has(name)));
  toward = recipe.toward;
  loras = recipe.loras.map((lora) => ({ ...lora }));
  setValues(recipe.settings);
  touched = new Set(Object.keys(recipe.settings).filter((name) => controls.has(name)));
  drawLoras();
  drawMore();
  if (recipe.image) await beginWith(blobOf(recipe.image), recipe.mask ? blobOf(recipe.mask) : null, recipe.settings.strength);
  else endBeginning();
  emit("prompt");
}

function blobOf(base64) {
  return new Blob([Uint8Array.from(atob(base64), (sign) => sign.charCodeAt(0))], { type: "image/png" });
}
