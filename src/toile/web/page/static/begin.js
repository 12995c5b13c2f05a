// The picture to begin with, and the brush that says which part of it is made anew.

import { base64Of, Refusal } from "./api.js";
import { byId } from "./dom.js";
import { trying } from "./messages.js";

const KINDS = ["image/png", "image/jpeg", "image/webp"];
const MOST_BYTES = 20 * 1024 * 1024;
const LONGEST_SIDE = 1024; // of the mask
let file = null; // as it was given
let picture = null; // as it is shown
let firstMask = null; // that came with a recipe
let strokes = [];
let erasing = false;
let cursor = null; // of the keyboard

export async function beginWith(blob, mask = null, strength = null) {
  if (!KINDS.includes(blob.type)) throw new Refusal("This is no picture that can be read; allowed: PNG, JPEG and WebP files.");
  if (blob.size > MOST_BYTES) throw new Refusal("This file is larger than 20 MB; make it smaller first.");
  let shown;
  try {
    shown = await createImageBitmap(blob);
  } catch {
    throw new Refusal("This is no picture that can be read; allowed: PNG, JPEG and WebP files.");
  }
  file = blob;
  picture = shown;
  firstMask = mask ? await createImageBitmap(mask) : null;
  strokes = [];
  byId("begin").open = true;
  byId("begin-empty").hidden = true;
  byId("begin-full").hidden = false;
  if (strength) byId("strength").value = String(strength);
  const scale = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
  for (const id of ["begin-picture", "begin-mask"]) {
    const canvas = byId(id);
    canvas.width = Math.max(1, Math.round(picture.width * scale));
    canvas.height = Math.max(1, Math.round(picture.height * scale));
    canvas.classList.toggle("small-picture", picture.width < 256);
  }
  byId("begin-full").querySelector(".easel").style.aspectRatio = `${picture.width} / ${picture.height}`;
  const canvas = byId("begin-picture");
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  tell();
  draw();
}

export function endBeginning() {
  file = picture = firstMask = null;
  strokes = [];
  byId("begin-empty").hidden = false;
  byId("begin-full").hidden = true;
  byId("begin-file").value = "";
}

// What goes into a request.
export async function begun() {
  if (!file) return {};
  const start = { image: await base64Of(file), fit: byId("fit").value };
  if (!hasMask()) return start;
  const canvas = document.createElement("canvas");
  const shown = byId("begin-mask");
  canvas.width = shown.width;
  canvas.height = shown.height;
  const pen = canvas.getContext("2d");
  paint(pen, "white", true);
  pen.globalCompositeOperation = "destination-over";
  pen.fillStyle = "black";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  return { ...start, mask: await base64Of(blob) };
}

const hasMask = () => firstMask !== null || strokes.some((stroke) => !stroke.erase);

function paint(pen, colour, solid) {
  const { width, height } = pen.canvas;
  pen.clearRect(0, 0, width, height);
  if (firstMask) {
    // White of the mask becomes the colour, black nothing.
    pen.drawImage(firstMask, 0, 0, width, height);
    const pixels = pen.getImageData(0, 0, width, height);
    for (let i = 0; i < pixels.data.length; i += 4) {
      pixels.data[i + 3] = pixels.data[i] > 127 ? 255 : 0;
      pixels.data[i] = pixels.data[i + 1] = pixels.data[i + 2] = 255;
    }
    pen.putImageData(pixels, 0, 0);
  }
  pen.lineCap = pen.lineJoin = "round";
  for (const stroke of strokes) {
    pen.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
    pen.strokeStyle = pen.fillStyle = "white";
    pen.lineWidth = stroke.size;
    pen.beginPath();
    stroke.points.forEach(([x, y], index) => (index ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    if (stroke.points.length === 1) pen.lineTo(stroke.points[0][0] + 0.01, stroke.points[0][1]);
    pen.stroke();
  }
  pen.globalCompositeOperation = "source-in";
  pen.fillStyle = colour;
  pen.fillRect(0, 0, width, height);
  pen.globalCompositeOperation = "source-over";
  if (!solid && cursor) {
    pen.beginPath();
    pen.arc(cursor[0], cursor[1], brushSize() / 2, 0, 7);
    pen.strokeStyle = "#1d5fa8";
    pen.lineWidth = Math.max(1, width / 150);
    pen.stroke();
  }
}

function draw() {
  paint(byId("begin-mask").getContext("2d"), "rgb(226 62 38)", false);
  byId("begin-told").textContent = hasMask()
    ? "What is painted is made anew, the rest stays as it is."
    : "Without paint the whole picture is reworked.";
}

const brushSize = () => (Number(byId("brush").value) / 100) * byId("begin-mask").width;

function place(event) {
  const canvas = byId("begin-mask");
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}

function tell() {
  byId("strength-told").textContent = `${Math.round(Number(byId("strength").value) * 100)} %`;
  byId("brush-told").textContent = `${byId("brush").value} %`;
}

function moveCursor(event) {
  const canvas = byId("begin-mask");
  const step = brushSize() / 2;
  const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
  const at = cursor || [canvas.width / 2, canvas.height / 2];
  if (moves[event.key]) {
    const [x, y] = moves[event.key];
    cursor = [Math.min(canvas.width, Math.max(0, at[0] + x)), Math.min(canvas.height, Math.max(0, at[1] + y))];
  } else if (event.key === " ") {
    cursor = at;
    strokes.push({ size: brushSize(), erase: erasing, points: [at] });
  } else return;
  event.preventDefault();
  event.stopPropagation();
  draw();
}

export function startBegin() {
  const canvas = byId("begin-mask");
  let drawing = null;
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    cursor = null;
    drawing = { size: brushSize(), erase: erasing, points: [place(event)] };
    strokes.push(drawing);
    draw();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!drawing) return;
    drawing.points.push(place(event));
    draw();
  });
  for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => (drawing = null));
  canvas.addEventListener("keydown", moveCursor);
  canvas.addEventListener("blur", () => {
    cursor = null;
    if (picture) draw();
  });
  byId("begin-file").addEventListener("change", (event) => {
    const [chosen] = event.target.files;
    if (chosen) trying(() => beginWith(chosen));
  });
  byId("erase").addEventListener("click", () => {
    erasing = !erasing;
    byId("erase").setAttribute("aria-pressed", String(erasing));
  });
  byId("undo").addEventListener("click", () => {
    strokes.pop();
    draw();
  });
  byId("clear-mask").addEventListener("click", () => {
    strokes = [];
    firstMask = null;
    draw();
  });
  byId("begin-away").addEventListener("click", endBeginning);
  for (const id of ["brush", "strength"]) byId(id).addEventListener("input", tell);
  tell();
}
