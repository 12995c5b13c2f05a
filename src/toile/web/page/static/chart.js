// Curves against the step, drawn by hand: a legend, axes, and the values of the step that is pointed at.

import { count, loss } from "./amounts.js";
import { el, isNarrow } from "./dom.js";

const HEIGHT = 300, LEFT = 62, RIGHT = 26, TOP = 10, BOTTOM = 30;
const COLOURS = 8;

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// series: [{name, points: [[step, value, plus or minus]], colour, faint, dots}]
export function chart(series, what, steps = 0) {
  const drawn = series.filter((each) => each.points.length);
  if (!drawn.length) return el("p", { class: "hint" }, "No curves yet.");
  const width = isNarrow() ? 400 : 720; // so that its text is large enough
  const named = drawn.filter((each) => each.name);
  const all = drawn.flatMap((each) => each.points);
  const x = scale(Math.min(...all.map((p) => p[0])), Math.max(steps, ...all.map((p) => p[0])), LEFT, width - RIGHT, false, width / 130);
  const y = scale(Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1])), HEIGHT - BOTTOM, TOP, all.every((p) => p[1] > 0));
  const cursor = svg("line", { class: "cursor", y1: TOP, y2: HEIGHT - BOTTOM, x1: -9, x2: -9 });
  const picture = svg("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, class: "chart", role: "img", tabindex: "0", "aria-label": `${what}: ${named.map(summary).join("; ")}` },
    ...y.ticks.flatMap((value) => [svg("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      svg("text", { x: LEFT - 8, y: y(value) + 4, class: "end" }, short(value))]),
    ...x.ticks.map((value) => svg("text", { x: x(value), y: HEIGHT - 10, class: "middle" }, count(value))),
    ...drawn.flatMap((each) => curve(each, x, y)), cursor);
  const told = el("p", { class: "chart-told", "aria-live": "polite" }, "");
  const figure = el("figure", { class: "curves" }, legend(named), picture, told);
  figure.show = pointing(picture, cursor, told, named, x, figure, width);
  return figure;
}

function curve({ points, colour, faint, dots }, x, y) {
  const of = `c${colour % COLOURS}${faint ? " faint" : ""}`;
  const line = points.map((p, index) => `${index ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
  const nodes = [svg("path", { class: `curve ${of}`, d: line })];
  if (dots || points.length === 1) nodes.push(...points.map((p) => svg("circle", { class: `dot ${of}`, cx: x(p[0]), cy: y(p[1]), r: 3 })));
  return nodes;
}

function scale(low, high, from, to, logarithmic, number = 5) {
  if (low === high) [low, high] = logarithmic ? [low / 1.2, high * 1.2] : [low - 1, high + 1];
  const as = logarithmic ? Math.log : (value) => value;
  const at = (value) => from + ((as(value) - as(low)) / (as(high) - as(low))) * (to - from);
  at.back = (place) => low + ((place - from) / (to - from)) * (high - low);
  at.ticks = logarithmic ? logTicks(low, high) : evenTicks(low, high, number);
  return at;
}

function evenTicks(low, high, number) {
  const raw = (high - low) / number, power = 10 ** Math.floor(Math.log10(raw));
  const by = [1, 2, 5, 10].map((each) => each * power).find((each) => each >= raw);
  const ticks = [];
  for (let k = Math.ceil(low / by); k * by <= high + by / 1e6; k++) ticks.push(Number((k * by).toPrecision(10)));
  return ticks;
}

function logTicks(low, high) {
  if (high / low < 8) return evenTicks(low, high, 5);
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++) {
    for (const each of high / low > 1000 ? [1] : [1, 2, 5]) ticks.push(Number(`${each}e${power}`));
  }
  return ticks.filter((value) => value >= low && value <= high);
}

const short = (value) => (value !== 0 && Math.abs(value) < 0.001 ? value.toExponential(0) : String(Number(value.toPrecision(4))));
const summary = ({ name, points }) => `${name} from ${loss(points[0][1])} to ${loss(points.at(-1)[1])} at step ${points.at(-1)[0]}`;

function legend(series) {
  return el("figcaption", { class: "legend" }, ...series.map(({ name, colour, faint }) =>
    el("span", {}, el("i", { class: `c${colour % COLOURS}${faint ? " faint" : ""}` }), name)));
}

// A mouse, a finger or the arrow keys choose a step; the nearest value of each curve is told.
function pointing(picture, cursor, told, series, x, figure, width) {
  const steps = [...new Set(series.flatMap((each) => each.points.map((p) => p[0])))].sort((a, b) => a - b);
  let chosen = steps.length - 1;
  const nearest = (points, step) => points.reduce((best, p) => (Math.abs(p[0] - step) < Math.abs(best[0] - step) ? p : best));
  const show = (step) => choose(steps.indexOf(nearest(steps.map((each) => [each]), step)[0]));
  const choose = (index) => {
    chosen = Math.max(0, Math.min(steps.length - 1, index));
    figure.chosen = steps[chosen];
    cursor.setAttribute("x1", x(steps[chosen]));
    cursor.setAttribute("x2", x(steps[chosen]));
    told.textContent = `step ${count(steps[chosen])}: ${series.map((each) => {
      const [, value, wide] = nearest(each.points, steps[chosen]);
      return `${each.name} ${loss(value)}${wide ? ` ± ${loss(wide)}` : ""}`;
    }).join(", ")}`;
  };
  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    show(x.back(((event.clientX - box.left) / box.width) * width));
  });
  picture.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    choose(chosen + by);
  });
  return show;
}

// Curves that have grown, in the place of those before; what was pointed at stays so.
export function replaceChart(holder, fresh) {
  const old = holder.firstElementChild;
  const focused = old?.contains(document.activeElement);
  holder.replaceChildren(fresh);
  if (old?.chosen !== undefined && fresh.show) fresh.show(old.chosen);
  if (focused) fresh.querySelector("svg")?.focus();
}

// Running means over a 25th, so that a trend is seen.
export function smooth(points) {
  const wide = Math.max(1, Math.floor(points.length / 25));
  return points.map(([step], index) => {
    const part = points.slice(Math.max(0, index - wide + 1), index + 1);
    return [step, part.reduce((sum, p) => sum + p[1], 0) / part.length];
  });
}

export function curvesOf(run) {
  const { training, held_out: heldOut } = run.curves;
  const series = [{ name: "", points: training, colour: 7, faint: true }, { name: "training, mean", points: smooth(training), colour: 7 }];
  Object.entries(heldOut).forEach(([who, points], index) => series.push({ name: `held out, ${who}`, points, colour: index, dots: true }));
  return chart(series, `Loss of ${run.name}`, run.steps_asked || 0);
}
