// A fine-tune: from pictures and a few settings to a plan, then to a run that is watched.

import { get, post, put, remove } from "./api.js";
import { count, lasting, loss, size } from "./amounts.js";
import { curvesOf, replaceChart } from "./chart.js";
import { byId, button, el, isNarrow, refill } from "./dom.js";
import { useLora } from "./form.js";
import { say, trying } from "./messages.js";
import { openRun } from "./runs.js";
import { facts, model, on } from "./store.js";
import { currentTab, openTab } from "./tabs.js";
import { now, tell } from "./training.js";

const RATES = { lora: "0.0005", fine_tune: "0.0001" };
let sets = [];

export async function start(panel) {
  refill(panel, el("div", { class: "left" }, form()), el("div", { class: "right" }, el("section", { id: "t-state", class: "card", "aria-label": "The training" })));
  usual();
  on("training", draw);
  on("learn-from", upload);
  on("tab", (name) => name === "train" && trying(drawSets));
  draw(now());
}

// ---------------------------------------------------------------------------------------------------- the form

function row(label, control, ...more) {
  return el("div", { class: "row" }, el("label", { for: control.id }, label), control, ...more);
}

const number = (id, value, more = {}) => el("input", { id, type: "number", value, min: "1", inputmode: "decimal", ...more });
const words = (id, more = {}) => el("input", { id, type: "text", maxlength: "500", ...more });

function form() {
  const what = (value, label, checked) => el("label", {}, el("input", { type: "radio", name: "t-what", value, checked, onchange: usual }), el("span", {}, label));
  return el("section", { class: "card fine-tune", "aria-labelledby": "t-title" },
    el("h2", { id: "t-title" }, "Teach a model"),
    row("Pictures", el("select", { id: "t-set", onchange: chosen }), button("Delete", forget, { id: "t-forget", hidden: true })),
    el("p", { class: "hint", id: "t-set-told" }),
    el("details", {}, el("summary", {}, "Upload pictures"),
      row("Their name", words("t-upload-name", { maxlength: "60", placeholder: "my-pictures" })),
      el("div", { class: "drop" }, el("p", {}, "Drop pictures here, with .txt files of their words, or one zip; or"),
        el("label", { class: "button" }, "choose them", el("input", { type: "file", id: "t-files", class: "unseen", multiple: true, accept: "image/png,image/jpeg,image/webp,.txt,.zip",
          onchange: (event) => upload([...event.target.files]) })), el("p", { id: "t-upload-told", role: "status" }))),
    el("div", { class: "row", id: "t-base-row", hidden: facts.models.length < 2 }, el("label", { for: "t-base" }, "Model"),
      el("select", { id: "t-base", onchange: usual }, ...facts.models.map((each) => el("option", {}, each.name)))),
    el("div", { class: "row" }, el("span", { class: "label", id: "t-what-title" }, "Learns"),
      el("div", { class: "segments", role: "radiogroup", "aria-labelledby": "t-what-title" }, what("lora", "a LoRA", true), what("fine_tune", "all weights", false))),
    row("Name", words("t-name", { maxlength: "60", placeholder: "linen", required: true })),
    row("Caption", words("t-caption", { placeholder: "if pictures have no words" })),
    row("Trigger", words("t-trigger", { placeholder: "a word before every caption" })),
    row("Steps", number("t-steps", "600")),
    row("Minutes", number("t-minutes", "", { placeholder: "no limit", step: "any", min: "0" })),
    el("details", { class: "finer" }, el("summary", {}, "Finer"),
      el("div", { id: "t-of-lora" }, row("Rank", number("t-rank", "8")),
        row("Layers", el("select", { id: "t-layers" }, el("option", { value: "usual" }, "attention: what things are"), el("option", { value: "all" }, "all: styles and textures too")))),
      row("Rate", number("t-rate", "0.0005", { step: "any", min: "0" })),
      row("Batch", number("t-batch", "16")),
      row("Width", number("t-width", ""), el("label", { for: "t-height" }, "Height"), number("t-height", "")),
      row("Seed", number("t-seed", "0", { min: "0" })),
      el("label", { class: "stacked" }, "Drawn on the way, a prompt a line", el("textarea", { id: "t-prompts", rows: "3", placeholder: "captions of pictures that are held out" }))),
    button("Make the plan", plan, { id: "t-plan", class: "primary wide" }),
    el("p", { class: "hint" }, "Nothing begins before you have seen the plan."));
}

const whatLearns = () => document.querySelector('input[name="t-what"]:checked').value;

// The model's own size, and the usual rate of what learns.
function usual() {
  const base = model(byId("t-base").value);
  for (const side of ["width", "height"]) {
    byId(`t-${side}`).value = String(base[side]);
    byId(`t-${side}`).step = String(base.multiple);
    byId(`t-${side}`).min = String(base.multiple);
  }
  byId("t-rate").value = RATES[whatLearns()];
  byId("t-of-lora").hidden = whatLearns() !== "lora";
}

async function drawSets(wanted = byId("t-set").value) {
  ({ sets } = await get("/picture-sets"));
  refill(byId("t-set"), ...sets.map((each) => el("option", { value: each.id }, `${each.name} (${each.num_pictures ? count(each.num_pictures) : "tar shards"})`)));
  if (!sets.length) byId("t-set").append(el("option", { value: "" }, "none yet"));
  if (sets.some((each) => each.id === wanted)) byId("t-set").value = wanted;
  byId("t-set").disabled = !sets.length;
  chosen();
}

function chosen() {
  const set = sets.find((each) => each.id === byId("t-set").value);
  byId("t-forget").hidden = !set?.is_own;
  byId("t-set-told").textContent = !set ? "Upload some below, or start the studio with --pictures FOLDER."
    : set.has_words || !set.num_pictures ? "" : "They have no words of their own: give them a caption.";
}

async function forget() {
  const set = sets.find((each) => each.id === byId("t-set").value);
  if (!set || !window.confirm(`Delete the uploaded pictures ${set.name} for good?`)) return;
  await trying(async () => {
    await remove(`/picture-sets/${set.id}`);
    await drawSets();
  });
}

const stem = (name) => name.replace(/\.[^.]*$/, "");

async function upload(files) {
  const told = byId("t-upload-told");
  const name = byId("t-upload-name").value.trim() || byId("t-upload-name").placeholder;
  const captions = new Map();
  for (const file of files.filter((each) => /\.txt$/i.test(each.name))) captions.set(stem(file.name), (await file.text()).split("\n")[0].trim());
  const others = files.filter((each) => !/\.txt$/i.test(each.name));
  const refused = [];
  let set = null;
  for (const [index, file] of others.entries()) {
    told.textContent = `${index + 1} of ${others.length} …`;
    const way = /\.zip$/i.test(file.name) ? "zip" : `pictures?caption=${encodeURIComponent(captions.get(stem(file.name)) || "")}`;
    try {
      set = await put(`/picture-sets/${encodeURIComponent(name)}/${way}`, file);
    } catch (error) {
      refused.push(`${file.name}: ${error.message}`);
    }
  }
  told.textContent = `${others.length - refused.length} of ${others.length} are there`;
  if (refused.length) say(`Not taken: ${refused.slice(0, 3).join("; ")}${refused.length > 3 ? `; and ${refused.length - 3} more` : ""}`, "error");
  byId("t-files").value = "";
  await trying(() => drawSets(set?.id));
}

async function plan() {
  const value = (id) => byId(`t-${id}`).value.trim();
  const numeric = (id) => (value(id) === "" ? null : Number(value(id)));
  const body = {
    name: value("name"), base: value("base") || null, pictures: value("set"), what: whatLearns(), caption: value("caption") || null, trigger: value("trigger"),
    width: numeric("width"), height: numeric("height"), minutes: numeric("minutes"), layers: value("layers"), prompts: value("prompts").split("\n"),
  };
  for (const id of ["steps", "batch", "rank", "rate", "seed"]) if (value(id) !== "") body[id] = Number(value(id));
  if (!body.name) {
    byId("t-name").focus();
    say("Give it a name.", "error");
    return;
  }
  await trying(async () => {
    tell(await post("/training", body));
    if (isNarrow()) byId("t-state").scrollIntoView({ block: "start" });
  });
}

// ------------------------------------------------------------------------------------------------ how it stands

const act = (what) => trying(async () => tell(await post(`/training/${now().run}/${what}`)));
const pairs = (rows) => el("dl", { class: "recipe" }, ...rows.filter(([, text]) => text).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));

function draw(training) {
  const panel = byId("t-state");
  byId("t-plan").disabled = Boolean(training?.is_active);
  const shape = training ? `${training.run} ${training.state}` : "";
  if (training && panel.dataset.shape === shape) drawProgress(training);
  else {
    panel.dataset.shape = shape;
    refill(panel, ...(training ? PARTS[training.state](training) : [el("div", { class: "blank" }, el("p", { class: "big" }, "Choose pictures and a name, and see the plan."),
      el("p", {}, "It says what was found, what it will take, and what will learn, before anything begins."))]));
    if (training) drawProgress(training);
  }
}

const PARTS = {
  planning: (training) => [el("h2", {}, training.is_resumed ? `${training.name} goes on` : `The plan of ${training.name}`), el("p", { role: "status" }, "Pictures are read, and a few steps are tried …"),
    el("progress", { "aria-label": "Planning" }), button("Leave it", () => act("stop"), { id: "t-drop" })],
  planned: (training) => [el("h2", {}, `The plan of ${training.name}`), ...planned(training),
    el("div", { class: "row wrap" }, button("Start", () => act("start"), { id: "t-start", class: "primary" }), button("Leave it", () => act("stop"), { id: "t-drop" })),
    el("p", { class: "hint" }, "Nothing has been written yet. To change something, make another plan.")],
  running: (training) => running(training, "is learning"),
  stopping: (training) => running(training, "stops after this step"),
  done: (training) => ended(training, "has learnt"),
  time: (training) => ended(training, "has stopped: its minutes are over"),
  stopped: (training) => ended(training, "has stopped; its state is saved"),
  dropped: (training) => [el("p", { class: "hint" }, `The plan of ${training.name} is dropped; nothing was written.`)],
  failed: (training) => [...ended(training, "came to nothing"), el("p", { class: "trouble", id: "t-error" }, training.error)],
};

function planned({ run, plan: of }) {
  return [el("img", { class: "learnt", src: `/studio/training/${run}/pictures.png`, alt: "The first pictures, as the model sees them" }),
    pairs([["pictures", of.summary], ["learnt, held out", `${count(of.num_train)}, ${count(of.num_held_out)}`],
      ["words", [...new Set(of.captions)].slice(0, 6).join(" · ")],
      ["time", `about ${lasting(of.seconds)}: ${count(of.steps)} steps of ${lasting(of.seconds_per_step)}, besides samples`],
      ["weights that learn", count(of.num_weights)], ["memory, disk", `${size(of.peak_bytes)}, ${size(of.disk_bytes)} of saved states`], ["at once", `${of.examples_at_once} pictures`]])];
}

function running(training, how) {
  return [el("h2", {}, `${training.name} ${how}`), el("p", { id: "t-told", role: "status" }), el("progress", { id: "t-progress", max: "1", value: "0", "aria-label": "Progress" }), el("div", { id: "t-chart" }),
    el("div", { class: "row wrap" }, button("Stop", () => act("stop"), { id: "t-stop", disabled: training.state === "stopping" }), button("See the run", () => openRun(training.run), { id: "t-run" })),
    el("p", { class: "hint" }, "It goes on when this page is closed. When the studio is closed, it stops with its state saved, and can be resumed. Pictures come first while both are made.")];
}

function ended(training, how) {
  const use = training.lora ? button(`Use ${training.lora}`, () => {
    useLora(training.lora, training.base);
    openTab("design");
    say(`Pictures are made with ${training.lora} from now on.`);
  }, { id: "t-use", class: "primary" }) : null;
  const again = ["time", "stopped", "failed"].includes(training.state) && training.step ? button("Resume", () => act("resume"), { id: "t-resume" }) : null;
  return [el("h2", {}, `${training.name} ${how}`), training.note ? el("p", { class: "trouble" }, training.note) : null, el("p", { class: "hint" }, `${count(training.step)} of ${count(training.steps)} steps`), el("div", { id: "t-chart" }),
    el("div", { class: "row wrap" }, use, again, training.step ? button("See the run", () => openRun(training.run), { id: "t-run" }) : null)];
}

async function drawProgress(training) {
  const told = byId("t-told");
  if (told) {
    const left = training.seconds_left === null ? "" : `, about ${lasting(training.seconds_left)} left`;
    told.textContent = `step ${count(training.step)} of ${count(training.steps)}${training.loss === null ? "" : `, loss ${loss(training.loss)}`}${left}`;
    byId("t-progress").value = training.step / training.steps;
  }
  if (!byId("t-chart") || !training.step || currentTab() !== "train") return;
  try {
    const run = await get(`/runs/${training.run}`);
    if (byId("t-chart")) replaceChart(byId("t-chart"), curvesOf(run));
  } catch {
    // the next look shows it
  }
}
