"""Charts of the page as SVG: their colours come from the page's style sheet, so they fit light and dark.

Lengths are in CSS pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from toile.evaluation.page_text import shown
from toile.evaluation.scores import HIGHER, Entry, Evaluation, Measure, Score
from toile.evaluation.standing import Bounds, bounds_of

NUM_COLOURS = 8
_WIDTH, _NAMES_WIDTH, _ROW, _TOP, _BOTTOM = 376, 128, 22, 30, 24
_SIGN = 6.0  # width of a letter of the small print, for what must not overlap
_LONGEST_NAME, _LONGEST_FAR = 19, 28
_FAR = 20.0  # a control this many times the makers' range away has no line


@dataclass(frozen=True)
class Curve:
    """A run's scores: (step, score) pairs in ascending order, and the number of its colour."""

    name: str
    points: tuple[tuple[int, Score], ...]
    colour: int


def dot_chart(evaluation: Evaluation, measure: Measure) -> str:
    """A row for each maker with its value as a dot and its interval as whiskers; the extreme controls as lines."""
    bounds = bounds_of(evaluation, measure)
    scores = [(number, entry, entry.scores.get(measure.key)) for number, entry in enumerate(evaluation.entries)]
    ends = [value for _, _, score in scores if score for value in (score.value, score.low, score.high)]
    drawn = {} if bounds is None else _drawn(bounds, ends)
    scale = _Scale.over([*ends, *drawn.values()], _NAMES_WIDTH, _WIDTH - 20, measure.is_share)
    height = _TOP + _ROW * len(scores) + _BOTTOM
    bottom = height - _BOTTOM
    parts = [_x_axis(scale, measure, _TOP, bottom), _bound_lines(bounds, measure, drawn, scale, bottom)]
    for row, (number, entry, score) in enumerate(scores):
        y = _TOP + _ROW * (row + 0.5)
        parts.append(_label(_NAMES_WIDTH - 8, y + 4, entry.name, "end"))
        if score is None or math.isnan(score.value):
            parts.append(_label(_NAMES_WIDTH + 4, y + 4, "-", "start", "faint"))
            continue
        colour = f"c{number % NUM_COLOURS}"
        if not math.isnan(score.low) and not math.isnan(score.high):
            low, high = scale.at(score.low), scale.at(score.high)
            ends_of_it = "".join(f"M{x:.1f} {y - 4}v8" for x in (low, high) if high - low > 14)
            parts.append(f'<path class="whisker {colour}" d="M{low:.1f} {y}H{high:.1f}{ends_of_it}"/>')
        parts.append(f'<circle class="dot {colour}" cx="{scale.at(score.value):.1f}" cy="{y}" r="4.5">')
        parts.append(f"<title>{shown(entry.name)}: {shown(measure.worded(score.value))}</title></circle>")
    return _svg(_WIDTH, height, f"{measure.title} of every maker", parts)


def scatter(evaluation: Evaluation, across: Measure, up: Measure) -> str:
    """Makers as labelled dots, controls as rings: one measure against another, the whiskers their intervals."""
    width, height, left, right, top, bottom = 560, 380, 56, 538, 16, 334
    placed = [
        (number, entry, entry.scores[across.key], entry.scores[up.key])
        for number, entry in enumerate((*evaluation.entries, *evaluation.controls))
        if _has(entry, across) and _has(entry, up)
    ]
    x_ends = (value for _, _, x, _ in placed for value in (x.value, x.low, x.high))
    y_ends = (value for _, _, _, y in placed for value in (y.value, y.low, y.high))
    x_scale = _Scale.over(x_ends, left, right, across.is_share)
    y_scale = _Scale.over(y_ends, bottom, top, up.is_share)
    parts = [_x_axis(x_scale, across, top, bottom), _y_axis(y_scale, up, left, right)]
    parts.append(_label((left + right) / 2, height - 8, _with_direction(across, "right", "left"), "middle", longest=60))
    parts.append(f'<g transform="rotate(-90 13 {(top + bottom) / 2})">')
    parts += [_label(13, (top + bottom) / 2, _with_direction(up, "up", "down"), "middle", longest=60), "</g>"]
    taken = []
    for number, entry, x, y in placed:
        centre_x, centre_y = x_scale.at(x.value), y_scale.at(y.value)
        taken.append((centre_x - 6, centre_y - 6, centre_x + 6, centre_y + 6))
        taken.append((x_scale.at(_or(x.low, x)), centre_y - 2, x_scale.at(_or(x.high, x)), centre_y + 2))
        taken.append((centre_x - 2, y_scale.at(_or(y.high, y)), centre_x + 2, y_scale.at(_or(y.low, y))))
        kind = "ring" if entry.is_control else f"dot c{number % NUM_COLOURS}"
        line = "whisker faint" if entry.is_control else f"whisker thin c{number % NUM_COLOURS}"
        if not any(math.isnan(value) for value in (x.low, x.high)):
            parts.append(f'<path class="{line}" d="M{x_scale.at(x.low):.1f} {centre_y:.1f}H{x_scale.at(x.high):.1f}"/>')
        if not any(math.isnan(value) for value in (y.low, y.high)):
            parts.append(f'<path class="{line}" d="M{centre_x:.1f} {y_scale.at(y.low):.1f}V{y_scale.at(y.high):.1f}"/>')
        parts.append(f'<circle class="{kind}" cx="{centre_x:.1f}" cy="{centre_y:.1f}" r="5"/>')
    inside = (left, top, right, bottom)
    for _, entry, x, y in placed:
        name = _short(entry.name, 26)
        box = _free_place(x_scale.at(x.value), y_scale.at(y.value), _SIGN * len(name), inside, taken)
        taken.append(box)
        parts.append(_label(box[0], box[3] - 3, name, "start", "faint" if entry.is_control else "", longest=26))
    return _svg(width, height, f"{across.title} against {up.title}", parts)


def step_curves(evaluation: Evaluation, measure: Measure, curves: Sequence[Curve]) -> str:
    """A measure against the step of training, a line for each run with its intervals; the best control as a line."""
    width, height, left, right, top, bottom = 360, 220, 50, 346, 20, 176
    bounds = bounds_of(evaluation, measure)
    points = [point for curve in curves for point in curve.points if not math.isnan(point[1].value)]
    x_scale = _Scale.over([step for step, _ in points], left, right)
    ends = [value for _, score in points for value in (score.value, score.low, score.high)]
    y_scale = _Scale.over([*ends, *_bound_values(bounds)[1:]], bottom, top, measure.is_share)
    parts = [_x_axis(x_scale, None, top, bottom), _y_axis(y_scale, measure, left, right)]
    parts.append(_label((left + right) / 2, height - 6, "step of training", "middle"))
    if bounds:
        y = y_scale.at(bounds.best_value)
        parts.append(f'<path class="bound" d="M{left} {y:.1f}H{right}"/>')
        parts.append(_label(right, y - 4, bounds.best, "end", "faint"))
    for curve in curves:
        colour = f"c{curve.colour % NUM_COLOURS}"
        kept = [(x_scale.at(step), score) for step, score in curve.points if not math.isnan(score.value)]
        line = "L".join(f"{x:.1f} {y_scale.at(score.value):.1f}" for x, score in kept)
        parts.append(f'<path class="curve {colour}" d="M{line}"><title>{shown(curve.name)}</title></path>')
        for x, score in kept:
            if not any(math.isnan(value) for value in (score.low, score.high)):
                low, high = y_scale.at(score.low), y_scale.at(score.high)
                parts.append(f'<path class="whisker thin {colour}" d="M{x:.1f} {low:.1f}V{high:.1f}"/>')
            parts.append(f'<circle class="dot {colour}" cx="{x:.1f}" cy="{y_scale.at(score.value):.1f}" r="3.5"/>')
    return _svg(width, height, f"{measure.title} against the step of training", parts)


@dataclass(frozen=True)
class _Scale:
    """Values to pixels: `low` lies at `start`, `high` at `stop`; `ticks` are round values between them."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Iterable[float], start: float, stop: float, is_share: bool = False) -> _Scale:
        """Over all finite values with some room; a share's axis does not leave 0 to 1 unless a value does."""
        finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        lowest, highest = min(finite), max(finite)
        room = 0.06 * (highest - lowest) or 0.1 * abs(highest) or 1.0
        low, high = lowest - room, highest + room
        if is_share:
            low, high = max(low, min(0.0, lowest)), min(high, max(1.0, highest))
        step = _round_step((high - low) / 4)
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        return cls(low, high, start, stop, tuple(step * number for number in range(first, last + 1)))

    def at(self, value: float) -> float:
        """The place of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)


def _round_step(least: float) -> float:
    """The smallest of 1, 2, 2.5 or 5 times a power of ten that is not below."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= least * (1 - 1e-9))


def _tick_text(value: float, measure: Measure | None) -> str:
    if measure is None:
        return f"{value:,.0f}"
    return f"{100 * value:.4g} %" if measure.is_share else f"{value:.4g}"


def _x_axis(scale: _Scale, measure: Measure | None, top: float, bottom: float) -> str:
    parts = []
    for tick in scale.ticks:
        x = scale.at(tick)
        parts.append(f'<path class="grid" d="M{x:.1f} {top}V{bottom}"/>')
        parts.append(_label(x, bottom + 15, _tick_text(tick, measure), "middle", "faint"))
    return "".join(parts)


def _y_axis(scale: _Scale, measure: Measure, left: float, right: float) -> str:
    parts = []
    for tick in scale.ticks:
        y = scale.at(tick)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right}"/>')
        parts.append(_label(left - 5, y + 4, _tick_text(tick, measure), "end", "faint"))
    return "".join(parts)


def _bound_values(bounds: Bounds | None) -> list[float]:
    return [] if bounds is None else [bounds.worst_value, bounds.best_value]


def _drawn(bounds: Bounds, values: Sequence[float]) -> dict[str, float]:
    """The controls that get a line; the worst gets none where it would squeeze all makers into a corner."""
    finite = [value for value in (*values, bounds.best_value) if math.isfinite(value)]
    is_far = abs(bounds.worst_value - bounds.best_value) > _FAR * (max(finite) - min(finite))
    drawn = {} if is_far else {bounds.worst: bounds.worst_value}
    return {**drawn, bounds.best: bounds.best_value}


def _bound_lines(
    bounds: Bounds | None, measure: Measure, drawn: Mapping[str, float], scale: _Scale, bottom: float
) -> str:
    """Vertical lines of the worst and best controls; a name stands where it does not run over the other."""
    if bounds is None:
        return ""
    labels = [(scale.at(value), name, name) for name, value in drawn.items()]
    if bounds.worst not in drawn:
        far = f"{bounds.worst} at {measure.worded(bounds.worst_value)}"
        labels.append((math.inf if bounds.worst_value > bounds.best_value else -math.inf, bounds.worst, far))
    parts = []
    last_right = -math.inf
    for place, (x, name, words) in enumerate(sorted(labels)):
        wide = _SIGN * len(_short(words, _LONGEST_FAR))
        # The left name ends at its line and the right one starts there, so that close lines can be read.
        left = x - wide + 4 if place == 0 and len(labels) == 2 else x - 4
        left = min(max(left, 2.0), _WIDTH - wide - 2)
        baseline = 23.0 if left < last_right + 6 else 11.0
        last_right = left + wide
        kind = "bound" if name == bounds.best else "bound worst"
        if math.isfinite(x):
            parts.append(f'<path class="{kind}" d="M{x:.1f} {_TOP - 4}V{bottom}"/>')
        parts.append(_label(left + wide / 2, baseline, words, "middle", "faint", longest=_LONGEST_FAR))
    return "".join(parts)


def _free_place(
    x: float, y: float, width: float, inside: Sequence[float], taken: Sequence[tuple[float, float, float, float]]
) -> tuple[float, float, float, float]:
    """The box (left, top, right, bottom) of a label beside a point that covers the least of what is there already."""
    corners = [(9.0, -7.0), (-9.0 - width, -7.0), (-width / 2, -22.0), (-width / 2, 8.0)]
    corners += [(7.0, -20.0), (7.0, 6.0), (-7.0 - width, -20.0), (-7.0 - width, 6.0)]
    corners += [(-width / 2, -36.0), (-width / 2, 22.0)]
    corners += [(24.0, -7.0), (-24.0 - width, -7.0), (44.0, -7.0), (-44.0 - width, -7.0)]
    boxes = [(x + right, y + down, x + right + width, y + down + 14.0) for right, down in corners]

    def covered(box: tuple[float, float, float, float]) -> float:
        over = sum(_common_area(box, other) for other in taken)
        area = (box[2] - box[0]) * (box[3] - box[1])
        return over + 4 * (area - _common_area(box, (inside[0], inside[1], inside[2], inside[3])))

    return min(boxes, key=covered)


def _common_area(one: Sequence[float], other: Sequence[float]) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)


def _or(end: float, score: Score) -> float:
    """An end of an interval, the value itself where there is none."""
    return score.value if math.isnan(end) else end


def _has(entry: Entry, measure: Measure) -> bool:
    return measure.key in entry.scores and math.isfinite(entry.scores[measure.key].value)


def _with_direction(measure: Measure, towards_high: str, towards_low: str) -> str:
    return f"{measure.title} ({towards_high if measure.better == HIGHER else towards_low} is better)"


def _short(name: str, longest: int = _LONGEST_NAME) -> str:
    return name if len(name) <= longest else f"{name[: longest - 1]}\N{HORIZONTAL ELLIPSIS}"


def _label(x: float, y: float, text: str, anchor: str, kind: str = "", longest: int = _LONGEST_NAME) -> str:
    full = f"<title>{shown(text)}</title>" if len(text) > longest else ""
    name = f' class="{kind}"' if kind else ""
    return f'<text{name} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{shown(_short(text, longest))}{full}</text>'


def _svg(width: float, height: float, words: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" aria-label="{shown(words)}">'
        f"{''.join(parts)}</svg>"
    )
