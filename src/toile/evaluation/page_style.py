"""The head of the page: its policy, and its style in light and dark."""

from __future__ import annotations

# Colours of makers after Okabe and Ito 2008, told apart by people of any colour vision; lighter on a dark ground.
_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b5508f", "#a67c00", "#3d95c9", "#6b4fa0", "#5b6770")
_DARK = ("#4aa8e0", "#f08a45", "#2fc79b", "#dd8fc0", "#dcb43c", "#8fd0f5", "#a993dc", "#a3b1bc")


def _colours(colours: tuple[str, ...]) -> str:
    return " ".join(f"--c{number}: {colour};" for number, colour in enumerate(colours))


_RULES = "\n".join(
    f".dot.c{n}, i.c{n} {{ fill: var(--c{n}); background: var(--c{n}); }} "
    f".whisker.c{n}, .curve.c{n} {{ stroke: var(--c{n}); }}"
    for n in range(len(_LIGHT))
)
# The policy forbids the page to run or fetch anything, whatever a caption or a name may hold.
HEAD = f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<title>Evaluation TITLE</title><style>
:root {{ --ground: #fff; --raised: #f6f7f8; --ink: #1d2126; --soft: #5c6670; --line: #dfe3e6; --grid: #e8ebed;
  --good: #0b6b3c; --good-ground: #e3f3e9; --bad: #a12a16; --bad-ground: #fbe9e5; --tint: #eef4fa; --link: #0b5c94;
  {_colours(_LIGHT)} }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #15181b; --raised: #1e2226; --ink: #e6e9eb; --soft: #9ba5ae;
  --line: #343a40; --grid: #2a3036; --good: #7fd6a4; --good-ground: #173325; --bad: #ff9d87; --bad-ground: #3d1d17;
  --tint: #1d2b38; --link: #7cc0f2; {_colours(_DARK)} }} }}
* {{ box-sizing: border-box; }}
body {{ font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; max-width: 78rem; margin: 0 auto;
  padding: 1.5rem 1.25rem 4rem; color: var(--ink); background: var(--ground); overflow-wrap: anywhere; }}
h1 {{ font-size: 1.75rem; line-height: 1.25; margin: .2rem 0 .6rem; max-width: 50rem; text-wrap: balance; }}
h2 {{ font-size: 1.25rem; margin: 3rem 0 .3rem; padding-top: 1rem; border-top: 1px solid var(--line); }}
h3 {{ font-size: 1rem; margin: 1.4rem 0 .3rem; }} h4 {{ font-size: .9rem; margin: .8rem 0 .2rem; }}
p {{ margin: .3rem 0; max-width: 52rem; }} a {{ color: var(--link); }}
code {{ font: .85em ui-monospace, "SF Mono", Menlo, Consolas, monospace; }}
nav {{ display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; margin: 1rem 0 0; font-size: .9rem; }}
.chips {{ display: flex; flex-wrap: wrap; gap: .2rem 1.4rem; color: var(--soft); font-size: .88rem; margin: .8rem 0; }}
.lead {{ font-size: 1.05rem; }} .faint, .small {{ color: var(--soft); }}
.small {{ display: block; font-size: .78rem; font-weight: 400; line-height: 1.35; }}
th > .small:first-child, p.small {{ display: block; }} th[scope=row] > .small:not(.meaning) {{ display: inline; }}
.leftout {{ color: var(--soft); font-size: .92rem; margin: .8rem 0; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); gap: .9rem; margin: 1.2rem 0; }}
.card {{ background: var(--raised); border-radius: 10px; padding: .9rem 1rem 1rem; }}
.card .who {{ font-size: 1.15rem; font-weight: 650; line-height: 1.3; margin: .35rem 0 .1rem; }}
.card .told {{ color: var(--good); }} .card .bad {{ color: var(--bad); }} .card p {{ font-size: .88rem; }}
.compared {{ display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 2rem;
  font-size: .88rem; }}
ul {{ padding-left: 1.2rem; margin: .4rem 0; }} li {{ margin: .2rem 0; max-width: 60rem; }}
.verdicts {{ list-style: none; padding: 0; }} .verdicts li {{ padding-left: 1.4rem; text-indent: -1.4rem; }}
.verdicts li::before {{ content: "="; display: inline-block; width: 1.4rem; text-indent: 0; color: var(--soft); }}
.verdicts li.told::before {{ content: ">"; color: var(--good); font-weight: 700; }}
details {{ margin: .5rem 0; }} summary {{ cursor: pointer; color: var(--link); }}
.wide {{ overflow-x: auto; margin: .7rem 0; }} table {{ border-collapse: collapse; }}
.scores {{ font-variant-numeric: tabular-nums; }}
.scores th, .scores td {{ padding: .4rem .55rem; vertical-align: top; text-align: right; overflow-wrap: normal;
  border-bottom: 1px solid var(--grid); }}
.scores th {{ font-weight: 600; }} .scores thead th {{ vertical-align: bottom; min-width: 6.5rem; max-width: 9rem;
  overflow-wrap: anywhere; }}
.scores th:first-child {{ position: sticky; left: 0; background: var(--ground); text-align: left; padding-left: 0;
  min-width: 13rem; max-width: 17rem; }}
.scores .group th {{ padding-top: 1.5rem; border-bottom: 1px solid var(--line); font-size: 1rem; max-width: none; }}
.scores .group span {{ position: sticky; left: 0; display: inline-block; max-width: calc(100vw - 2rem); }}
.scores .ids * {{ color: var(--soft); font-weight: 400; }}
.scores td .small {{ white-space: nowrap; }} .value {{ white-space: nowrap; }}
.scores .control {{ color: var(--soft); }} td.best .value, .best.key {{ font-weight: 750; color: var(--good); }}
td.best {{ background: var(--good-ground); }} td.tied, .tied.key {{ background: var(--tint); }}
.key {{ padding: 0 .3rem; border-radius: 3px; }} .best.key {{ background: var(--good-ground); }}
.sheet th, .sheet td {{ padding: 2px 3px; vertical-align: middle; text-align: center; }}
.sheet thead th {{ vertical-align: bottom; width: 6rem; min-width: 6rem; }}
.sheet tbody th {{ position: sticky; left: 0; background: var(--ground); text-align: left; padding-right: .8rem;
  font-size: .85rem; min-width: 8rem; max-width: 10rem; overflow-wrap: break-word; hyphens: auto; }}
.caption {{ font-weight: 400; font-size: .74rem; line-height: 1.25; color: var(--soft); }}
h3.caption {{ font-size: .9rem; }}
img {{ display: inline-block; vertical-align: middle; background: var(--raised); border-radius: 3px; }}
.sheet img {{ max-width: none; }} img.coarse {{ image-rendering: pixelated; }}
.stage img {{ max-width: 100%; height: auto; }}
.blocks {{ display: flex; flex-wrap: wrap; gap: 0 2.5rem; }} .block {{ max-width: 100%; }}
.block img {{ height: 80px; width: auto; }}
.cases {{ display: flex; flex-wrap: wrap; gap: .9rem 1.1rem; margin: .5rem 0; }}
figure {{ margin: 0; max-width: 100%; width: 8rem; }} figure.stage {{ width: auto; }} figure.pair {{ width: 11rem; }}
.pair img + img {{ margin-left: 4px; }} figcaption {{ font-size: .76rem; line-height: 1.35; margin-top: .25rem; }}
.alarm, .calm {{ padding: .4rem .7rem; border-radius: 6px; font-size: .92rem; }}
.alarm {{ background: var(--bad-ground); color: var(--bad); }}
.calm {{ background: var(--good-ground); color: var(--good); }}
.facts th, .facts td {{ text-align: left; vertical-align: top; padding: .25rem 1.2rem .25rem 0; font-size: .88rem;
  border-bottom: 1px solid var(--grid); }} .facts td {{ min-width: 7rem; }}
dt {{ font-weight: 600; margin-top: .8rem; }} dd {{ margin: 0; max-width: 52rem; }}
.charts {{ display: flex; flex-wrap: wrap; gap: 1.2rem 1.6rem; }} .chart {{ max-width: 100%; }}
.chart h4 {{ margin: 0 0 .1rem; }} .legend i {{ display: inline-block; width: .7rem; height: .7rem; border-radius: 50%;
  margin-right: .35rem; }} .legend span {{ margin-right: 1.1rem; white-space: nowrap; }}
svg {{ max-width: 100%; height: auto; display: block; font-size: 11px; }} svg text {{ fill: var(--ink); }}
svg text.faint {{ fill: var(--soft); }} .grid {{ stroke: var(--grid); }} .whisker {{ stroke-width: 2; fill: none; }}
.whisker.thin {{ stroke-width: 1.2; }} .whisker.faint {{ stroke: var(--soft); stroke-width: 1; }}
.curve {{ stroke-width: 2; fill: none; }} .ring {{ fill: var(--ground); stroke: var(--soft); stroke-width: 1.5; }}
.bound {{ stroke: var(--soft); stroke-width: 1.3; fill: none; }} .bound.worst {{ stroke-dasharray: 4 3; }}
{_RULES}
@media (max-width: 640px) {{ body {{ padding: 1rem .9rem 3rem; }} h1 {{ font-size: 1.4rem; }}
  .meaning {{ display: none; }}
  .scores th:first-child {{ min-width: 7.5rem; max-width: 7.5rem; }} .scores .group th {{ max-width: none; }}
  .scores th, .scores td {{ padding: .35rem .5rem; }} .sheet tbody th {{ min-width: 5.6rem; max-width: 5.6rem;
  font-size: .74rem; padding-right: .3rem; }} .compared {{ grid-template-columns: 1fr; }} figure {{ width: 6.6rem; }} }}
@media print {{ .wide {{ overflow: visible; }} }}
</style></head><body>
"""
