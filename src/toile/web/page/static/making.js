// From the controls to jobs.

import { post } from "./api.js";
import { showJobs } from "./board.js";
import { byId } from "./dom.js";
import { readForm } from "./form.js";
import { follow } from "./live.js";
import { trying } from "./messages.js";
import { emit, facts, keep, model } from "./store.js";

// The size that pictures of a request have, for the places that wait for them.
export function shaped(job) {
  const of = model(job.model);
  const width = job.settings.width || of.width;
  const height = job.settings.height || of.height;
  job.shape = of.enlarges && of.enlarges.from[0] === width && of.enlarges.from[1] === height
    ? { width: of.enlarges.to[0], height: of.enlarges.to[1] } : { width, height };
  return job;
}

export async function submit(body) {
  return trying(async () => {
    const job = shaped(keep(await post("/jobs", body)));
    showJobs([job]);
    emit("job", job);
    follow([job]);
    return job;
  });
}

export async function make() {
  const body = await trying(readForm);
  return body && submit(body);
}

// One picture of the words as they are now, from a seed that is known.
export async function redraw(seed) {
  const body = await trying(readForm);
  return body && submit({ ...body, seed, num: 1 });
}

export async function makeGrid(x, y) {
  const job = await trying(readForm);
  if (!job) return;
  await trying(async () => {
    // All cells begin from one seed, unless seeds are what differs.
    const seed = job.seed || String(Math.floor(Math.random() * 2 ** 32));
    const grid = await post("/grids", { job: { ...job, seed }, x, y });
    const jobs = grid.cells.flat().map((each) => shaped(keep(each)));
    showJobs(jobs, grid.columns.map((value) => `${x.name.replaceAll("_", " ")} ${value}`), grid.rows.map((value) => (y ? `${y.name.replaceAll("_", " ")} ${value}` : value)));
    jobs.forEach((each) => emit("job", each));
    follow(jobs);
  });
}

export function makeExample(prompt) {
  byId("prompt").value = prompt;
  emit("prompt");
  return make();
}

export function startMaking() {
  byId("make").addEventListener("click", make);
  byId("make").disabled = false;
  if (!facts.models.length) byId("make").disabled = true;
}
