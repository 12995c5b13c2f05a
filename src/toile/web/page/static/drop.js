// A picture that is dropped or pasted: its settings come back, or it is what one begins with.

import { base64Of, post } from "./api.js";
import { beginWith } from "./begin.js";
import { byId } from "./dom.js";
import { fillForm } from "./form.js";
import { say, trying } from "./messages.js";
import { emit } from "./store.js";
import { currentTab } from "./tabs.js";

const WHAT_IT_DOES = "Drop it: its settings come back, or it is what you begin with";

export async function takeFile(file) {
  await trying(async () => {
    let recipe;
    try {
      recipe = await post("/recipes", { file: await base64Of(file) });
    } catch (error) {
      if (!/holds no/.test(error.message)) throw error;
      await beginWith(file);
      say("This picture does not say how it was made, so it is what you begin with.");
      return;
    }
    await fillForm(recipe);
    const notes = recipe.notes.length ? ` But: ${recipe.notes.join("; ")}.` : "";
    say(`The settings of this picture are back.${notes}`);
  });
}

// On the tab where pictures are learnt from, they are for that.
function take(files) {
  if (!files.length) return;
  if (currentTab() === "train") emit("learn-from", files);
  else takeFile(files[0]);
}

export function startDrop() {
  let depth = 0;
  const show = (is) => {
    byId("dropping").hidden = !is;
    if (is) byId("dropping").textContent = currentTab() === "train" ? "Drop pictures to learn from, with .txt files of their words, or one zip" : WHAT_IT_DOES;
  };
  const hasFiles = (event) => [...(event.dataTransfer?.types || [])].includes("Files");
  document.addEventListener("dragenter", (event) => {
    if (!hasFiles(event)) return;
    depth++;
    show(true);
  });
  document.addEventListener("dragleave", (event) => {
    if (hasFiles(event) && --depth <= 0) show(false);
  });
  document.addEventListener("dragover", (event) => {
    if (hasFiles(event)) event.preventDefault();
  });
  document.addEventListener("drop", (event) => {
    if (!hasFiles(event)) return;
    event.preventDefault();
    depth = 0;
    show(false);
    take([...event.dataTransfer.files]);
  });
  document.addEventListener("paste", (event) => {
    take([...(event.clipboardData?.files || [])]);
  });
}
