"""The report of a sweep: `sweep.json` for programs, and one page that fetches nothing from anywhere for people."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from toile.training.sweep_ranking import BEST, TIED, Interval, RankedTrial, Ranking
from toile.training.sweep_recipe import Setting, SweepRecipe, json_text
from toile.weights.files import write_json_atomically, write_text_atomically

Sheets = Mapping[int, Mapping[int, Path]]  # trial -> training seed -> samples before, in the middle and after
# The policy forbids the page to run or fetch anything, whatever a recipe may hold.
_HEAD = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>Sweep</title><style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .3rem; } p { margin: .3rem 0; max-width: 60rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: 1rem 0; }
td, th { padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #eee; }
td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.best { background: #e6f4ea; } .tied { background: #f2f7ec; } .name { font-size: .8rem; color: #666; }
figure { display: inline-block; margin: .5rem 1rem .5rem 0; vertical-align: top; } img { max-width: 100%; }
</style></head><body>
"""


def write_report(sweep: SweepRecipe, directory: Path, ranking: Ranking, sheets: Sheets) -> None:
    """Writes `sweep.json` and `sweep/index.html` into the folder of a sweep, each all or nothing."""
    write_json_atomically(directory / "sweep.json", report_facts(sweep, ranking))
    write_text_atomically(directory / "sweep" / "index.html", render_page(sweep, ranking, sheets))


def report_facts(sweep: SweepRecipe, ranking: Ranking) -> dict[str, Any]:
    """The whole result as JSON values."""
    rows = [{**asdict(row.trial), **asdict(row)} for row in ranking.rows]
    for row in rows:
        del row["trial"]
        row["losses"] = {str(seed): loss for seed, loss in row["losses"].items()}
    facts = sweep.facts()
    return {
        "recipe": str(sweep.recipe),
        "space": facts["space"],
        "search": facts["search"],
        "notes": list(ranking.notes),
        "trials": rows,
    }


def render_page(sweep: SweepRecipe, ranking: Ranking, sheets: Sheets) -> str:
    """The page as HTML text.

    Args:
        sweep: what was tried.
        ranking: what came out.
        sheets: pictures of each trial's runs, which are put into the page.
    """
    seeds = sweep.search.seeds
    notes = "".join(f"<p>{_text(note)}</p>" for note in ranking.notes)
    heads = [*sweep.space, *(f"seed {seed}" for seed in seeds), "mean (95 % interval)", "paired difference to the best"]
    heading = "".join(f"<th>{_text(head)}</th>" for head in ("trial", *heads, ""))
    rows = "".join(_row(row, list(sweep.space), seeds) for row in ranking.rows)
    pictures = "".join(_pictures(row, sheets.get(row.trial.number, {})) for row in ranking.rows)
    return (
        f"{_HEAD}<h1>Sweep of {_text(sweep.recipe.name)}</h1>"
        f"<p>{len(ranking.rows)} of {sweep.num_trials} settings, each trained with {len(seeds)} "
        f"{'seed' if len(seeds) == 1 else 'seeds'}. Numbers are held-out losses at the end of each run, of the weights "
        "that it exported; lower is better.</p>"
        f'{notes}<div class="wide"><table><tr>{heading}</tr>{rows}</table></div>{pictures}</body></html>\n'
    )


def interval_text(interval: Interval | None, signed: bool = False) -> str:
    """A mean with its interval for people; empty where there is none."""
    if interval is None:
        return ""
    sign = "+" if signed else ""
    return f"{interval.mean:{sign}.4f} ({interval.low:{sign}.4f} to {interval.high:{sign}.4f})"


def mean_text(row: RankedTrial) -> str:
    """The mean loss of a row, with its interval if there is one."""
    if row.mean is None:
        return ""
    return interval_text(row.interval) or f"{row.mean:.4f}"


def verdict_text(row: RankedTrial) -> str:
    """The verdict, with the reason where a trial has one."""
    return f"{row.verdict}: {row.trial.note}" if row.trial.note else row.verdict


def setting_text(setting: Setting) -> str:
    """Keys and values on one line."""
    return ", ".join(f"{key} = {json_text(value)}" for key, value in setting.items())


def _row(row: RankedTrial, keys: Sequence[str], seeds: Sequence[int]) -> str:
    settings = [json_text(row.trial.setting[key]) if key in row.trial.setting else "" for key in keys]
    losses = [f"{row.trial.losses[seed]:.4f}" if seed in row.trial.losses else "" for seed in seeds]
    numbers = [str(row.trial.number), *settings, *losses, mean_text(row), interval_text(row.difference, signed=True)]
    cells = "".join(f'<td class="number">{_text(number)}</td>' for number in numbers)
    kind = {BEST: ' class="best"', TIED: ' class="tied"'}.get(row.verdict, "")
    return f"<tr{kind}>{cells}<td>{_text(verdict_text(row))}</td></tr>"


def _pictures(row: RankedTrial, sheets: Mapping[int, Path]) -> str:
    figures = "".join(_figure(seed, sheet) for seed, sheet in sheets.items())
    if not figures:
        return ""
    title = f"Trial {row.trial.number}: {setting_text(row.trial.setting)} ({row.verdict})"
    return f"<h2>{_text(title)}</h2>{figures}"


def _figure(seed: int, sheet: Path) -> str:
    data = base64.b64encode(sheet.read_bytes()).decode("ascii")
    return (
        f'<figure><img alt="samples of training seed {seed}" src="data:image/png;base64,{data}">'
        f'<figcaption class="name">training seed {seed}</figcaption></figure>'
    )


def _text(text: str) -> str:
    shown = "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)
    return html.escape(shown)
