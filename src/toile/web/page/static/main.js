// Puts the page together.

import { get, post } from "./api.js";
import { startBegin } from "./begin.js";
import { showJobs, startBoard } from "./board.js";
import { startBrief } from "./brief.js";
import { startCompare } from "./compare.js";
import { byId, isNarrow } from "./dom.js";
import { startDrop } from "./drop.js";
import { refreshLoras, startForm } from "./form.js";
import { startGrid } from "./grid.js";
import { startKeys } from "./keys.js";
import { follow } from "./live.js";
import { makeExample, shaped, startMaking } from "./making.js";
import { trying } from "./messages.js";
import { startPicks } from "./picks.js";
import { facts, isEnded, jobs, on } from "./store.js";
import { startTabs } from "./tabs.js";
import { startTheme } from "./theme.js";
import { nameOf } from "./tile.js";
import { startTraining } from "./training.js";
import { startWall } from "./wall.js";
import { startWords } from "./words.js";

const SECONDS_BETWEEN_LOOKS = 1;

async function watchStatus() {
  const status = byId("status");
  try {
    const now = await get("/status");
    status.textContent = now.trouble || (now.ready ? "" : "The model is being loaded …");
    status.classList.toggle("trouble", Boolean(now.trouble));
    document.documentElement.dataset.ready = String(now.ready);
    if (now.ready || now.trouble) return;
  } catch (error) {
    status.textContent = error.message;
  }
  setTimeout(watchStatus, SECONDS_BETWEEN_LOOKS * 1000);
}

async function start() {
  startTheme();
  if (isNarrow()) for (const id of ["brief", "settings"]) byId(id).open = false;
  await post("/session");
  Object.assign(facts, await get("/facts"));
  startForm();
  startBegin();
  startBoard(makeExample);
  startMaking();
  startGrid();
  startCompare();
  startPicks(nameOf);
  startDrop();
  startKeys();
  startWords();
  watchStatus();
  on("trained", refreshLoras);
  startTraining();
  await Promise.all([startBrief(), startWall()]);
  const all = [...jobs.values()];
  const unfinished = all.filter((job) => !isEnded(job));
  const last = unfinished[0] || all.find((job) => job.pictures.length);
  if (last) showJobs([shaped(last)], null, null, { quietly: true });
  follow(unfinished);
  startTabs();
  document.documentElement.dataset.started = "true";
}

trying(start);
