// A picture on the board or the wall.

import { pictureUrl } from "./api.js";
import { button, el } from "./dom.js";
import { isPicked, pick } from "./picks.js";
import { jobs } from "./store.js";
import { openViewer } from "./viewer.js";

const SMALL = 256; // pictures below it are shown enlarged, pixel by pixel

export const sizeClass = (picture) => (picture.width < SMALL ? "small-picture" : "large-picture");

export function nameOf(picture) {
  const job = jobs.get(picture.job);
  return `${job ? job.prompt || "no words" : "picture"}, seed ${picture.seed}`;
}

export function imageOf(picture, attributes = {}) {
  return el("img", {
    src: pictureUrl(picture), alt: nameOf(picture), class: sizeClass(picture), draggable: "false",
    width: picture.width, height: picture.height, loading: "lazy", decoding: "async", ...attributes,
  });
}

export function tile(picture, caption) {
  const open = button(imageOf(picture), () => openViewer(picture), { class: "frame", "aria-label": `Open ${nameOf(picture)}` });
  const box = el("input", {
    type: "checkbox", class: "pick", "aria-label": `Choose ${nameOf(picture)}`, onchange: (event) => pick(picture, event.target.checked),
  });
  box.checked = isPicked(picture);
  const thumb = picture.thumb ? el("span", { class: "thumb", title: picture.thumb > 0 ? "liked" : "not liked" }, picture.thumb > 0 ? "♥" : "✕") : null;
  const flags = picture.flagged ? el("span", { class: "flag" }, "flagged") : null;
  return el("figure", { class: "tile", "data-picture": `${picture.job}/${picture.number}` }, open, box, thumb, flags,
    caption ? el("figcaption", {}, caption) : null);
}

export function emptyTile(job, preview) {
  const style = el("div", { class: "frame waiting" });
  const { width, height } = job.shape || { width: 64, height: 80 };
  style.style.aspectRatio = `${width} / ${height}`;
  if (preview) style.append(el("img", { src: preview, alt: "as it is now", class: "preview", "data-job": job.id }));
  return el("figure", { class: "tile" }, style);
}
