// Pictures that were chosen, to be compared or taken along.

import { postForFile, save } from "./api.js";
import { openCompare } from "./compare.js";
import { byId } from "./dom.js";
import { say, trying } from "./messages.js";
import { emit } from "./store.js";

const picked = new Map();
const keyOf = (picture) => `${picture.job}/${picture.number}`;

export const isPicked = (picture) => picked.has(keyOf(picture));

export function pick(picture, chosen) {
  if (chosen) picked.set(keyOf(picture), picture);
  else picked.delete(keyOf(picture));
  show();
}

function show() {
  const num = picked.size;
  byId("picked").hidden = num === 0;
  byId("picked-told").textContent = num === 1 ? "1 picture chosen" : `${num} pictures chosen`;
  byId("picked-compare").disabled = num !== 2;
  for (const box of document.querySelectorAll(".tile .pick")) {
    box.checked = picked.has(box.closest(".tile").dataset.picture);
  }
}

export const places = (pictures) => pictures.map((picture) => ({ job: picture.job, number: picture.number }));

export async function saveSheet(pictures, captions, columns) {
  await trying(async () => {
    const body = { pictures: places(pictures), captions, columns: columns || null };
    save(await postForFile("/sheets", body), "toile-sheet.png");
  });
}

export function unpickJob(id) {
  for (const key of [...picked.keys()]) if (key.startsWith(`${id}/`)) picked.delete(key);
  show();
}

export function startPicks(captionOf) {
  byId("picked-none").addEventListener("click", () => {
    picked.clear();
    show();
  });
  byId("picked-compare").addEventListener("click", () => openCompare([...picked.values()]));
  byId("picked-sheet").addEventListener("click", () => saveSheet([...picked.values()], [...picked.values()].map(captionOf)));
  byId("picked-zip").addEventListener("click", () => trying(async () => {
    save(await postForFile("/zips", { pictures: places([...picked.values()]) }), "toile-pictures.zip");
    say("The pictures are in toile-pictures.zip, each with its recipe inside.");
    emit("exported");
  }));
}
