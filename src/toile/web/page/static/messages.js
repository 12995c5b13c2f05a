// Short messages at the edge of the page.

import { byId, button, el } from "./dom.js";

const SECONDS = 8;

export function say(text, kind = "note") {
  const note = el("div", { class: `message ${kind}` }, el("span", {}, text));
  note.append(button("Close", () => note.remove(), { class: "quiet" }));
  byId("messages").append(note);
  setTimeout(() => note.remove(), (kind === "error" ? 2 : 1) * SECONDS * 1000);
}

// Runs something that may be refused, and says why in one line.
export async function trying(act) {
  try {
    return await act();
  } catch (error) {
    const text = String(error.message || error);
    say(text.charAt(0).toUpperCase() + text.slice(1), "error");
    if (error.name !== "Error") console.warn(error);
    return undefined;
  }
}
