// While a word is pointed at, the pictures on the board show where they looked for it.

import { get, heatUrl, picturePath } from "./api.js";
import { byId, el } from "./dom.js";
import { jobs } from "./store.js";

const known = new Map(); // words of pictures, by job and number
let shown = null;

async function wordsOf(picture) {
  const key = picturePath(picture);
  if (!known.has(key)) known.set(key, get(`${key}/words`).then((found) => found.words, () => []));
  return known.get(key);
}

export async function showWord(text) {
  hideWord();
  shown = text;
  for (const tile of byId("board").querySelectorAll(".tile[data-picture]")) {
    const [id, number] = tile.dataset.picture.split("/");
    const picture = jobs.get(id)?.pictures.find((each) => String(each.number) === number);
    if (!picture?.has_maps) continue;
    const words = await wordsOf(picture);
    const index = words.findIndex((word) => word.toLowerCase() === text.toLowerCase());
    if (shown !== text) return; // pointed elsewhere meanwhile
    if (index >= 0) tile.querySelector(".frame").append(el("img", { class: "veil over", alt: "", src: heatUrl(picture, index) }));
  }
}

export function hideWord() {
  shown = null;
  for (const veil of document.querySelectorAll("#board .veil")) veil.remove();
}
