// A picture that is dropped or pasted: its settings come back, or it is what one begins with.

import { base64Of, post } from "./api.js";
import { beginWith } from "./begin.js";
import { byId } from "./dom.js";
import { fillForm } from "./form.js";
import { say, trying } from "./messages.js";

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

export function startDrop() {
  let depth = 0;
  const show = (is) => (byId("dropping").hidden = !is);
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
    const [file] = event.dataTransfer.files;
    if (file) takeFile(file);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData?.files || [];
    if (file) takeFile(file);
  });
}
