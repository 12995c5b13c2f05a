// The brief builder: a garment, part by part.

import { get, post } from "./api.js";
import { byId, el, refill } from "./dom.js";
import { chosenModel } from "./form.js";
import { trying } from "./messages.js";
import { emit, on } from "./store.js";

const PARTS = [
  ["article", "Article"], ["colour", "Colour"], ["pattern", "Pattern"], ["people", "For"],
  ["season", "Season"], ["usage", "Use"], ["year", "Year"],
];

async function fill() {
  const choices = await get(`/choices?model=${encodeURIComponent(chosenModel().name)}`);
  refill(byId("brief-fields"), ...PARTS.filter(([part]) => Object.values(choices[part]).flat().length).map(([part, title]) => {
    const groups = Object.entries(choices[part]).map(([group, names]) => {
      const options = names.map((name) => el("option", { value: name }, name));
      return group ? [el("optgroup", { label: group }, ...options)] : options;
    });
    const select = el("select", { id: `brief-${part}`, onchange: write }, el("option", { value: "" }, "any"), ...groups.flat());
    return el("label", { for: `brief-${part}` }, el("span", {}, title), select);
  }));
}

async function write() {
  const brief = {};
  for (const [part] of PARTS) brief[part] = byId(`brief-${part}`)?.value || "";
  await trying(async () => {
    byId("prompt").value = (await post("/briefs", brief)).prompt;
    emit("prompt");
  });
}

export async function startBrief() {
  on("model", () => trying(fill));
  await fill();
}
