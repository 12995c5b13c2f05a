// One picture, large: where it looked for its words, how it was made, and what can be done with it.

import { get, heatUrl, pictureFile, picturePath, put, save } from "./api.js";
import { beginWith } from "./begin.js";
import { byId, button, el, refill } from "./dom.js";
import { fillForm } from "./form.js";
import { submit } from "./making.js";
import { say, trying } from "./messages.js";
import { isPicked, pick } from "./picks.js";
import { emit, jobs, pictures } from "./store.js";
import { imageOf } from "./tile.js";
import { forget } from "./wall.js";

const VARIATIONS = 4;
let picture = null;
let recipe = null;

const dialog = () => byId("viewer");
export const viewed = () => (dialog().open ? picture : null);

export async function openViewer(chosen) {
  picture = chosen;
  recipe = null;
  draw();
  if (!dialog().open) dialog().showModal();
  await trying(async () => {
    const found = await get(`${picturePath(chosen)}/recipe`);
    if (picture !== chosen) return;
    recipe = found;
    refill(byId("viewer-recipe"), ...recipeRows(found));
  });
  if (chosen.has_maps) {
    await trying(async () => {
      const { words } = await get(`${picturePath(chosen)}/words`);
      if (picture === chosen) drawWords(words);
    });
  }
}

export function step(by) {
  const all = pictures();
  const next = all[all.findIndex((each) => each.job === picture.job && each.number === picture.number) + by];
  if (next) openViewer(next);
}

export async function rate(thumb) {
  const rated = picture;
  const wanted = rated.thumb === thumb ? 0 : thumb;
  await trying(async () => {
    await put(`${picturePath(rated)}/thumb`, { thumb: wanted });
    const kept = jobs.get(rated.job)?.pictures.find((each) => each.number === rated.number);
    for (const each of [rated, kept]) if (each) each.thumb = wanted;
    emit("rated", rated);
    if (picture === rated) drawThumbs();
  });
}

function draw() {
  const job = jobs.get(picture.job);
  const veil = el("img", { class: "veil", alt: "", id: "veil", hidden: true });
  const easel = el("div", { class: "easel big" }, imageOf(picture, { id: "viewer-picture", loading: "eager" }), veil);
  easel.style.aspectRatio = `${picture.width} / ${picture.height}`;
  easel.style.setProperty("--shape", String(picture.width / picture.height));
  const box = el("input", { type: "checkbox", onchange: (event) => pick(picture, event.target.checked) });
  box.checked = isPicked(picture);
  refill(dialog(),
    el("div", { class: "viewer-head" },
      button("←", () => step(-1), { "aria-label": "The one before", class: "quiet" }),
      button("→", () => step(1), { "aria-label": "The next one", class: "quiet" }),
      el("span", { class: "grow" }), button("Close", () => dialog().close(), { class: "quiet" })),
    el("div", { class: "viewer-body" },
      el("div", {}, easel, el("div", { id: "viewer-words", class: "chips", role: "group", "aria-label": "Where it looked for each word" })),
      el("div", { class: "viewer-side" },
        el("h2", { id: "viewer-title" }, job?.prompt || "No words"),
        picture.reading ? el("p", { class: "told" }, `read as: ${picture.reading}`) : null,
        ...picture.warnings.map((text) => el("p", { class: "hint" }, text)),
        el("div", { class: "row wrap", id: "viewer-thumbs", role: "group", "aria-label": "What you think of it" }),
        el("div", { class: "row" }, el("label", { for: "share" }, "How far"), shareSlider(), el("output", { for: "share", id: "share-told" }, "20 %")),
        el("div", { class: "row wrap" },
          button("Variations", vary, { id: "vary", class: "primary" }), button("Other seeds", otherSeeds, { id: "other-seeds" }),
          button("Rework or repaint", rework, { id: "rework" })),
        el("div", { class: "row wrap" }, button("Use its settings", use, { id: "use" }),
          button("Save PNG", () => trying(async () => save(await pictureFile(picture), `toile-${picture.job.slice(0, 8)}-${picture.number}.png`)), { id: "save" }),
          button("Delete", async () => {
            dialog().close();
            await forget(jobs.get(picture.job));
          })),
        el("label", { class: "tick" }, box, " Choose it, to compare or take along"),
        el("dl", { id: "viewer-recipe", class: "recipe" }))));
  drawThumbs();
}

function shareSlider() {
  return el("input", { type: "range", id: "share", min: "0.05", max: "0.95", step: "0.05", value: "0.2", oninput: (event) => {
    byId("share-told").textContent = `${Math.round(Number(event.target.value) * 100)} %`;
  } });
}

function drawThumbs() {
  refill(byId("viewer-thumbs"),
    button("♥ Like", () => rate(1), { id: "like", "aria-pressed": String(picture.thumb === 1) }),
    button("✕ Not this", () => rate(-1), { id: "dislike", "aria-pressed": String(picture.thumb === -1) }));
}

function drawWords(words) {
  const veil = byId("veil");
  const show = (index) => {
    veil.src = heatUrl(picture, index);
    veil.hidden = false;
  };
  const hide = () => (veil.hidden = true);
  refill(byId("viewer-words"), ...words.map((word, index) => {
    const chip = button(word, () => (veil.hidden ? show(index) : hide()), { class: "chip" });
    chip.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(index));
    chip.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && hide());
    chip.addEventListener("focus", () => chip.matches(":focus-visible") && show(index));
    chip.addEventListener("blur", hide);
    return chip;
  }));
}

function recipeRows(found) {
  const rows = { seed: found.seed, size: `${picture.width} × ${picture.height}`, model: found.model, "leave out": found.negative || null };
  for (const [name, value] of Object.entries(found.settings)) {
    if (!["width", "height"].includes(name) && (name !== "strength" || found.image)) rows[name.replaceAll("_", " ")] = value;
  }
  for (const lora of found.loras) rows[`LoRA ${lora.name}`] = lora.strength;
  if (found.toward) rows.variation = `${Math.round(found.toward.share * 100)} % towards seed ${found.toward.seed}`;
  return Object.entries(rows).filter(([, value]) => value !== null && value !== undefined)
    .flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))]);
}

const again = (changes) => {
  const { program, notes, ...body } = recipe;
  dialog().close();
  return submit({ ...body, num: VARIATIONS, maps: picture.has_maps, ...changes });
};

export function vary() {
  // Variations of a variation lie around the picture that both began from.
  if (recipe) again({ toward: { share: Number(byId("share").value) } });
}

function otherSeeds() {
  if (recipe) again({ seed: null, toward: null });
}

async function use() {
  if (!recipe) return;
  dialog().close();
  await trying(() => fillForm(recipe));
  if (recipe.notes.length) say(`Its settings are back, but: ${recipe.notes.join("; ")}.`);
  byId("prompt").focus();
}

async function rework() {
  const job = jobs.get(picture.job);
  const blob = await trying(() => pictureFile(picture));
  if (!blob) return;
  dialog().close();
  await trying(() => beginWith(new Blob([blob], { type: "image/png" })));
  if (!byId("prompt").value && job) byId("prompt").value = job.prompt;
  emit("prompt");
  byId("begin").scrollIntoView({ behavior: "smooth", block: "nearest" });
}
