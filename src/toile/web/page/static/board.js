// The board: what was asked for last, from the first preview to the finished pictures.

import { post } from "./api.js";
import { byId, button, el, isNarrow, refill } from "./dom.js";
import { trying } from "./messages.js";
import { saveSheet } from "./picks.js";
import { facts, isEnded, on } from "./store.js";
import { emptyTile, tile } from "./tile.js";

let example = () => {};
let shown = null; // {jobs, columns, rows}

export function showJobs(jobs, columns = null, rows = null, { quietly = false } = {}) {
  shown = { jobs, columns, rows };
  draw();
  if (!quietly && isNarrow()) byId("board").scrollIntoView({ behavior: "smooth", block: "start" });
}

export const currentJob = () => (shown && !shown.columns ? shown.jobs[0] : null);
export const busyJobs = () => (shown ? shown.jobs.filter((job) => !isEnded(job)) : []);

export function cancelCurrent() {
  for (const job of busyJobs()) trying(() => post(`/jobs/${job.id}/cancel`));
}

export function startBoard(makeExample) {
  example = makeExample;
  on("job", (job) => {
    if (shown && shown.jobs.includes(job)) draw();
  });
  on("rated", () => shown && draw());
  on("forgotten", (id) => {
    if (shown && shown.jobs.some((job) => job.id === id)) {
      shown = null;
      draw();
    }
  });
  draw();
}

// While nothing but the progress is new, only that is changed: what has the focus keeps it.
const signature = () => (shown ? shown.jobs.map((job) => `${job.id}${job.state}${job.position}${job.pictures.length}${!job.preview}${job.pictures.map((p) => p.thumb)}`).join() : "");

function draw() {
  const board = byId("board");
  if (shown && board.dataset.signature === signature()) {
    board.querySelector("progress")?.setAttribute("value", String(done()));
    for (const image of board.querySelectorAll("img.preview")) {
      const job = shown.jobs.find((each) => each.id === image.dataset.job);
      if (job && job.preview && image.src !== job.preview) image.src = job.preview;
    }
    return;
  }
  board.dataset.signature = signature();
  if (!shown) {
    refill(board, el("div", { class: "blank" }, el("p", { class: "big" }, "Say what it shall be, or begin with one of these."),
      el("div", { class: "chips middle", role: "group", "aria-label": "Examples" },
        ...facts.examples.map((prompt) => button(prompt, () => example(prompt), { class: "chip example" })))));
    return;
  }
  const { jobs } = shown;
  const busy = jobs.filter((job) => !isEnded(job));
  refill(board, heading(jobs, busy), busy.length ? progress(done()) : null, ...errors(jobs), shown.columns ? table() : tiles(jobs[0]));
}

function heading(jobs, busy) {
  const first = jobs[0];
  const waiting = busy.length && busy.every((job) => job.state === "queued");
  const before = waiting && first.position ? `, ${first.position} before it` : "";
  const state = !busy.length ? "" : waiting ? `waiting${before}` : "being drawn";
  return el("div", { class: "board-bar" },
    el("h2", {}, first.prompt || "No words"), el("span", { class: "state", role: "status" }, state),
    busy.length ? button("Cancel", cancelCurrent, { id: "cancel" }) : null,
    !busy.length && shown.columns ? button("Save as sheet", saveGrid) : null);
}

const done = () => shown.jobs.reduce((sum, job) => sum + (isEnded(job) ? 1 : job.fraction || 0), 0) / shown.jobs.length;

function progress(fraction) {
  return el("progress", { max: "1", value: String(fraction), "aria-label": "Progress" });
}

function errors(jobs) {
  const told = new Set(jobs.filter((job) => job.state === "failed").map((job) => job.error || "it failed"));
  if (jobs.every((job) => job.state === "cancelled")) told.add("cancelled");
  return [...told].map((text) => el("p", { class: "trouble" }, text));
}

function tiles(job) {
  const list = job.pictures.map((picture) => tile(picture, `seed ${picture.seed}`));
  if (!isEnded(job)) {
    for (let left = job.num - job.pictures.length; left > 0; left--) {
      list.push(emptyTile(job, left === job.num - job.pictures.length ? job.preview : null));
    }
  }
  const warnings = [...new Set(job.pictures.flatMap((picture) => picture.warnings))];
  return el("div", {}, el("div", { class: `tiles of-${Math.min(job.num, 4)}` }, ...list), ...warnings.map((text) => el("p", { class: "hint" }, text)));
}

function table() {
  const { jobs, columns, rows } = shown;
  const body = rows.map((row, number) => el("tr", {}, el("th", { scope: "row" }, row),
    ...columns.map((_, place) => el("td", {}, cell(jobs[number * columns.length + place])))));
  return el("div", { class: "grid-scroll" }, el("table", { class: "grid" },
    el("thead", {}, el("tr", {}, el("td"), ...columns.map((name) => el("th", { scope: "col" }, name)))), el("tbody", {}, ...body)));
}

function cell(job) {
  if (job.pictures.length) return tile(job.pictures[0]);
  return isEnded(job) ? el("span", { class: "hint" }, job.state) : emptyTile(job, job.preview);
}

function saveGrid() {
  const { jobs, columns, rows } = shown;
  const made = jobs.map((job, index) => [job.pictures[0], index]).filter(([picture]) => picture);
  const captions = made.map(([, index]) => `${columns[index % columns.length]} ${rows[Math.floor(index / columns.length)]}`.trim());
  saveSheet(made.map(([picture]) => picture), captions, columns.length);
}
