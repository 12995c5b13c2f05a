// Evaluations: what they found, and their pages, which stay strangers to this one.

import { get } from "./api.js";
import { count } from "./amounts.js";
import { byId, button, el, refill } from "./dom.js";
import { trying } from "./messages.js";
import { on } from "./store.js";

const addressOf = (report) => `/studio/reports/${report.id}/page`;

export async function start(panel) {
  refill(panel, el("h2", {}, "Reports"), el("p", { class: "hint", id: "e-told" }), el("ul", { id: "e-list", class: "report-list" }), el("div", { id: "e-page" }));
  on("tab", (name) => name === "reports" && trying(look));
}

async function look() {
  const { reports, folders } = await get("/reports");
  byId("e-told").textContent = folders.length ? `Evaluations in ${folders.join(", ")}.` : "";
  refill(byId("e-list"), ...reports.map(card));
  if (!reports.length) byId("e-list").append(el("li", { class: "hint" }, "None yet. toile evaluate and toile compare write them; start the studio with --reports FOLDER."));
}

function card(report) {
  const [title, ...sentences] = report.headline;
  const about = [report.makers.length > 1 ? `${report.makers.length} makers` : "", report.num_pictures ? `${count(report.num_pictures)} pictures each` : "", report.protocol ? `protocol ${report.protocol}` : "", report.when];
  return el("li", { class: "card" }, el("h3", {}, title || report.name), ...sentences.map((text) => el("p", {}, text)), report.note ? el("p", { class: "trouble" }, report.note) : null,
    el("p", { class: "hint" }, [report.name, ...about].filter(Boolean).join(" · ")),
    el("div", { class: "row wrap" }, button("Read it here", () => open(report), { class: "read" }),
      el("a", { class: "button", href: addressOf(report), target: "_blank", rel: "noopener noreferrer" }, "In a tab of its own")));
}

function open(report) {
  refill(byId("e-page"), el("div", { class: "board-bar" }, el("h2", {}, report.name), button("Close", () => refill(byId("e-page")))),
    el("iframe", { src: addressOf(report), sandbox: "", title: `The report ${report.name}`, class: "report" }));
  byId("e-page").scrollIntoView({ behavior: "smooth", block: "start" });
}
