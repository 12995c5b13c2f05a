// Which two settings a grid goes over.

import { byId, el, refill } from "./dom.js";
import { chosenModel } from "./form.js";
import { makeGrid } from "./making.js";
import { on } from "./store.js";

function axes() {
  const now = chosenModel();
  return [
    ["guidance", "Guidance", "1, 1.5, 2, 3"],
    ["steps", "Steps", "5, 10, 20"],
    ["seed", "Seed", "1, 2, 3, 4"],
    ["sampler", "Sampler", "ddim, unipc, dpmpp_2m"],
    ["prompt", "Words", "red dress | blue dress"],
    ["negative", "Leave out", "logo | print"],
    ["strength", "Made anew", "0.3, 0.5, 0.7"],
    ...(Object.keys(now.qualities).length ? [["quality", "Quality", Object.keys(now.qualities).join(", ")]] : []),
  ];
}

function fill() {
  const options = () => axes().map(([name, title]) => el("option", { value: name }, title));
  refill(byId("x-name"), ...options());
  refill(byId("y-name"), el("option", { value: "" }, "nothing"), ...options());
  byId("x-name").value = "guidance";
  byId("y-name").value = "seed";
  for (const side of ["x", "y"]) suggest(side);
}

function suggest(side) {
  const found = axes().find(([name]) => name === byId(`${side}-name`).value);
  byId(`${side}-values`).value = found ? found[2] : "";
  byId(`${side}-values`).disabled = !found;
}

export function startGrid() {
  fill();
  on("model", fill);
  for (const side of ["x", "y"]) byId(`${side}-name`).addEventListener("change", () => suggest(side));
  byId("make-grid").addEventListener("click", () => {
    const [x, y] = ["x", "y"].map((side) => ({ name: byId(`${side}-name`).value, values: byId(`${side}-values`).value }));
    makeGrid(x, y.name ? y : null);
  });
}
