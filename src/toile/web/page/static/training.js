// The training there is: looked at while it is at work, whatever is shown, as it goes on without the page.

import { get } from "./api.js";
import { byId } from "./dom.js";
import { say } from "./messages.js";
import { emit } from "./store.js";
import { currentTab } from "./tabs.js";

const SECONDS = { near: 1, far: 4 };
let training = null;
let timer;

export const now = () => training;

export function tell(found) {
  const before = training;
  training = found;
  byId("tab-train").classList.toggle("busy", Boolean(found?.is_active));
  emit("training", found);
  if (before?.run === found?.run && before?.is_active && found?.state !== before.state) end();
  clearTimeout(timer);
  if (found?.is_active) timer = setTimeout(look, SECONDS[currentTab() === "design" ? "far" : "near"] * 1000);
}

function end() {
  if (training.lora) say(`${training.name} has learnt: the LoRA ${training.lora} can be used now.`);
  if (training.state === "failed") say(`${training.name}: ${training.error}`, "error");
  if (["done", "time", "stopped", "failed"].includes(training.state)) emit("trained", training);
}

async function look() {
  try {
    tell((await get("/training")).training);
  } catch {
    timer = setTimeout(look, SECONDS.far * 1000);
  }
}

export const startTraining = look;
