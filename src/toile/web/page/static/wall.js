// The wall: everything that was made, the newest first.

import { get, remove } from "./api.js";
import { byId, button, el, refill } from "./dom.js";
import { trying } from "./messages.js";
import { unpickJob } from "./picks.js";
import { emit, jobs, keep, on } from "./store.js";
import { tile } from "./tile.js";

const PAGE = 30;
export async function startWall() {
  on("job", (job) => {
    const old = byId("wall").querySelector(`[data-job="${CSS.escape(job.id)}"]`);
    if (!old || old.dataset.signature !== signature(job)) drawJob(job);
  });
  on("rated", drawAll);
  byId("older").addEventListener("click", () => trying(older));
  byId("shown").addEventListener("change", drawAll);
  return older();
}

async function older() {
  const oldest = [...jobs.values()].sort((a, b) => a.created - b.created)[0];
  const before = oldest ? `&before=${oldest.id}` : "";
  const found = (await get(`/jobs?limit=${PAGE}${before}`)).jobs;
  found.forEach(keep);
  byId("older").hidden = found.length < PAGE;
  drawAll();
  return found;
}

export async function forget(job) {
  if (!window.confirm(`Delete ${job.num === 1 ? "this picture" : `these ${job.num} pictures`} for good?`)) return;
  await trying(async () => {
    await remove(`/jobs/${job.id}`);
    jobs.delete(job.id);
    unpickJob(job.id);
    emit("forgotten", job.id);
    drawAll();
  });
}

function drawAll() {
  const ordered = [...jobs.values()].sort((a, b) => b.created - a.created);
  refill(byId("wall"), ...ordered.map(group));
  if (!ordered.length) byId("wall").append(el("p", { class: "hint" }, "Nothing yet."));
}

const signature = (job) => `${job.state}${job.pictures.length}`;

function drawJob(job) {
  const fresh = group(job);
  const old = byId("wall").querySelector(`[data-job="${CSS.escape(job.id)}"]`);
  if (old) old.replaceWith(fresh);
  else drawAll();
}

function group(job) {
  const liked = byId("shown").value === "up";
  const shown = job.pictures.filter((picture) => !liked || picture.thumb > 0);
  const empty = !shown.length;
  const when = new Date(job.created * 1000).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });
  const notes = [job.share !== null && job.share !== undefined ? "variations" : "", job.state === "cancelled" ? "cancelled" : "", job.state === "failed" ? job.error : ""];
  return el("article", { class: `group${empty ? " empty" : ""}`, "data-job": job.id, "data-signature": signature(job), hidden: empty && (liked || job.state !== "failed") },
    el("header", {}, el("h3", {}, job.prompt || "No words"), el("span", { class: "hint" }, [when, ...notes].filter(Boolean).join(" · ")),
      button("Delete", () => forget(job), { class: "quiet", "aria-label": `Delete the pictures of ${job.prompt}` })),
    el("div", { class: "strip" }, ...shown.map((picture) => tile(picture))));
}
