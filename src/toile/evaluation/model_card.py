"""The model card: what a model is, what it learnt from, whom and what it draws, how good it is, what not to do with it.

The sections follow Mitchell et al. 2019, "Model Cards for Model Reporting". What is measured stands with n and
interval; what nobody measured or said is called so, with the command that would.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from toile.evaluation.attributes import Share
from toile.evaluation.balance import BalanceGap
from toile.evaluation.card_scores import ModelScores
from toile.evaluation.card_text import LONGEST, plain
from toile.evaluation.model_balance import AttributeBalance, ModelBalance, UnaskedBalance
from toile.evaluation.scores import GROUPS, ORIGINALITY, Measure
from toile.models.classifier import BASE_COLOUR
from toile.weights.provenance import Provenance

MARK = "<!-- written by toile card -->"
_LEAST_SHOWN = 0.03
# Data sets by their names in recipes: what they are called, and their publishers' licence.
_LICENCES = {
    "products": ("Fashion Product Images (Small), Kaggle, paramagarwal", "MIT, as its publisher says"),
    "fashion-mnist": ("Fashion-MNIST, Zalando", "MIT"),
}


@dataclass(frozen=True)
class CardSubject:
    """What a card is of.

    Attributes:
        model: as people name it.
        hash: of its content.
        parts: name, number of parameters and megabytes of each network.
        components: name -> SHA-256 of each component.
        details: what else describes it, name and value.
        settings: that pictures are made with if nothing else is said.
        readme: the text of the README.md beside the weights; "" where there is none.
        provenance: how it was trained; None where nothing says so.
    """

    model: str
    hash: str
    parts: tuple[tuple[str, int, float], ...]
    components: Mapping[str, str]
    details: Mapping[str, str]
    settings: Mapping[str, Any]
    readme: str
    provenance: Provenance | None


def render_card(subject: CardSubject, balance: ModelBalance | None, scores: ModelScores | None) -> str:
    """The card as Markdown; equal arguments give equal text.

    Args:
        balance, scores: None where they were not measured; the card then says what would measure them.
    """
    sections = [
        *_head(subject),
        *_uses(subject),
        *_training(subject),
        *_balance(balance, subject.model),
        *_originality(scores, subject.model),
        *_scores(scores, subject.model),
        *_limits(subject, balance),
        *_licences(subject),
    ]
    return "\n".join([MARK, *sections]) + "\n"


def _code(text: str) -> str:
    """A text from anywhere as code within a line, in which nothing but its end has a meaning."""
    shown = "".join(sign if sign.isprintable() and sign not in "`|" else " " for sign in text[:LONGEST])
    return f"`{shown}`"


def section_of(readme: str, *titles: str) -> str:
    """What a README says under the first of these headings that it has, of any level; "" if it has none."""
    for title in titles:
        match = re.search(rf"^(#+) {re.escape(title)}\s*\n(.*?)(?=^#+ |\Z)", readme, re.MULTILINE | re.DOTALL)
        if match:
            return match[2].strip()
    return ""


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _head(subject: CardSubject) -> Iterator[str]:
    yield f"# {plain(subject.model)}: model card\n"
    total = sum(parameters for _, parameters, _ in subject.parts)
    yield f"A latent diffusion model that turns words into pictures, {total:,} parameters."
    yield f"Content {_code(subject.hash)}.\n"
    rows = [(plain(part), f"{parameters:,}", f"{size:.1f} MB") for part, parameters, size in subject.parts]
    yield from _table(("network", "parameters", "size"), rows)
    yield from (f"- {plain(what)}: {plain(value)}" for what, value in subject.details.items())
    given = ", ".join(f"{key} {value}" for key, value in subject.settings.items() if value not in (None, ""))
    yield f"- made with, if nothing else is said: {plain(given)}\n"


def _uses(subject: CardSubject) -> Iterator[str]:
    yield "## Intended use\n"
    written = section_of(subject.readme, "Intended use", "Uses")
    yield (written or "Ideas for designs, teaching, and the study of methods on small pictures.") + "\n"
    yield (
        "Not for: pictures that are passed off as photographs of real goods, pictures of particular people, or "
        "decisions about people. What it draws says how its data was, not how people or clothes are.\n"
    )


def _training(subject: CardSubject) -> Iterator[str]:
    yield "## How it was trained\n"
    known = subject.provenance
    if known is not None:
        loop = known.recipe.get("loop", {})
        batch = loop.get("batch_size") if isinstance(loop, Mapping) else None
        seen = f", {known.steps * batch:,} pictures seen" if isinstance(batch, int) else ""
        task = plain(known.recipe.get("task", "not said"))
        yield f"- toile {plain(known.toile)}, task {task}, {known.steps:,} steps{seen}"
        held_out = "" if known.held_out == known.pictures else f"; held out: {_code(known.held_out)}"
        yield f"- pictures and their split: {_code(known.pictures)}{held_out}"
        yield from (f"- network that took part, {plain(role)}: {_code(sha)}" for role, sha in known.networks.items())
        yield "- the full recipe is in provenance.json beside the weights\n"
    written = [section_of(subject.readme, title) for title in ("Data", "Recipe and compute")]
    if any(written):
        yield "As written beside the weights:\n"
        yield "\n\n".join(text for text in written if text) + "\n"
    if known is None and not any(written):
        yield "Nothing beside the weights says so: there is no provenance.json, which toile train writes.\n"
    yield from (f"- {plain(part)}: SHA-256 {_code(sha)}" for part, sha in subject.components.items() if sha)
    yield ""


def _balance(balance: ModelBalance | None, model: str) -> Iterator[str]:
    yield "## Balance: whom and what it draws\n"
    if balance is None:
        yield f"Not measured. {_code(f'toile card {model}')} does, with TOILE\\_DATA naming the folder of the data.\n"
        return
    judge, sha = balance.judge
    yield (
        f"{balance.num_captions} pictures for captions of held-out pictures, beside those real pictures. All are named "
        f"by the judge {plain(judge)} ({_code(sha[:16])}), real ones too: its mistakes are then on both sides. "
        f"Brackets are 95 % intervals (Wilson). Seed {balance.seed}, data {_code(balance.pictures)}.\n"
    )
    for each in balance.attributes:
        yield from _attribute(each)
    yield "### Drawn unasked\n"
    yield (
        f"Words that name an article and nothing else, {balance.num_neutral} pictures each, beside as many real "
        "held-out pictures of the article. The second column is of the labels of all training pictures. Distances that "
        f"chance makes less than once in twenty are bold: of {len(balance.unasked)}, about one may be so by chance.\n"
    )
    head = (
        "words",
        "in the data (labels)",
        "real, as judged",
        "drawn unasked, as judged",
        "distance",
        "by chance up to",
    )
    for attribute in dict.fromkeys(each.attribute for each in balance.unasked):
        yield f"**{plain(_spoken(attribute)).capitalize()}**\n"
        rows = [_unasked_row(each) for each in balance.unasked if each.attribute == attribute]
        yield from _table(head, rows)


def _attribute(each: AttributeBalance) -> Iterator[str]:
    yield f"### {plain(_spoken(each.attribute)).capitalize()}\n"
    rows = []
    for label in each.real.labels:
        learnt = "-" if each.training is None else f"{each.training.share(label).value:.1%}"
        rows.append((plain(label), learnt, _share(each.real.share(label)), _share(each.made.share(label))))
    yield from _table(("", "training pictures (labels)", "real, as judged", "generated, as judged"), rows)
    if each.score is not None:
        right, real = each.score.judged, each.score.real
        yield (
            f"The judge names what the caption's record says in {_share(real)} of the real pictures (the rest is its "
            f"own error) and {_share(right)} of the generated ones, n = {each.score.num_pairs}."
        )
    yield f"{_gap_sentence(each.gap)}\n"


def _gap_sentence(gap: BalanceGap) -> str:
    found = f"total variation distance {gap.value:.3f} ({gap.low:.3f} to {gap.high:.3f})"
    chance = f"chance alone gives up to {gap.by_chance:.3f}, p = {gap.p_value:.3g}"
    verdict = "The balance differs from that of real pictures" if gap.is_told else "No difference of balance is shown"
    return f"{verdict}: {found}; {chance}."


def _unasked_row(each: UnaskedBalance) -> tuple[str, ...]:
    words = f'"{plain(each.prompt)}"' if each.article else "all of these together"
    real = {label: each.real.share(label).value for label in each.real.labels}
    made = {label: each.made.share(label).value for label in each.made.labels}
    gap = each.gap
    span = f"{gap.value:.2f} ({gap.low:.2f} to {gap.high:.2f})"
    told = f"**{span}**" if gap.is_told else span
    return words, _leading(each.training), _leading(real), _leading(made), told, f"{gap.by_chance:.2f}"


def _leading(shares: Mapping[str, float]) -> str:
    """The most frequent labels with their shares."""
    first = sorted(shares.items(), key=lambda item: (-item[1], item[0]))[:4]
    return ", ".join(f"{plain(label)} {share:.0%}" for label, share in first if share >= _LEAST_SHOWN) or "-"


def _spoken(attribute: str) -> str:
    return {BASE_COLOUR: "colour"}.get(attribute, attribute.replace("_", " "))


def _share(share: Share) -> str:
    low, high = share.interval
    return f"{share.value:.1%} ({100 * low:.1f}-{100 * high:.1f})"


def _originality(scores: ModelScores | None, model: str) -> Iterator[str]:
    yield "## Originality: does it copy what it learnt from?\n"
    if scores is None:
        yield f"Not measured. {_code(f'toile evaluate {model}')} does.\n"
        return
    yield from _score_table(scores, ORIGINALITY)
    if scores.audits:
        yield from (f"- {plain(name)}: {plain(audit)}" for name, audit in scores.audits)
        yield ""


def _scores(scores: ModelScores | None, model: str) -> Iterator[str]:
    yield "## Scores\n"
    made_by = _code(f"toile evaluate {model}")
    if scores is None:
        yield f"Not measured. {made_by} writes evaluation.json, which toile card reads: --evaluation FILE.\n"
        return
    ids = ", ".join(_code(protocol) for protocol in dict.fromkeys(protocol for _, protocol, _ in scores.entries))
    yield (
        f"Protocol {ids}; scores of other protocols cannot be compared. Brackets are 95 % intervals. Of "
        f"{scores.num_pictures:,} pictures each, where no other n is given.\n"
    )
    if scores.meanings:
        yield "Beside the model stand floors and ceilings, which say what the scores can be:\n"
        yield from (f"- {plain(name)}: {plain(meaning)}" for name, meaning in scores.meanings)
        yield ""
    for group, question in GROUPS.items():
        if group != ORIGINALITY:
            yield f"### {question}\n"
            yield from _score_table(scores, group)
    yield from (f"- {plain(note)}" for note in scores.notes)
    yield ""


def _score_table(scores: ModelScores, group: str) -> Iterator[str]:
    columns = [*scores.entries, *scores.controls]
    rows = []
    for key, measure in scores.measures.items():
        if measure.group == group and any(key in of for _, _, of in scores.entries):
            cells = [_cell(measure, of.get(key), scores.num_pictures) for _, _, of in columns]
            rows.append((f"{plain(measure.title)} ({measure.direction})", *cells))
    if not rows:
        yield "Not measured.\n"
        return
    yield from _table(("", *(plain(name) for name, _, _ in columns)), rows)


def _cell(measure: Measure, score: Mapping[str, Any] | None, num_pictures: int) -> str:
    if score is None or score["value"] is None:
        return "-"
    text = measure.worded(float(score["value"]))
    if score["low"] is not None and score["high"] is not None:
        low, high = measure.worded(float(score["low"])), measure.worded(float(score["high"]))
        text += f" ({low.removesuffix(' %')} to {high})"
    return text if int(score["n"]) == num_pictures else f"{text}, n = {int(score['n']):,}"


def _limits(subject: CardSubject, balance: ModelBalance | None) -> Iterator[str]:
    yield "## Limits\n"
    written = section_of(subject.readme, "Limits", "Limitations")
    if written:
        yield written + "\n"
    else:
        yield "It knows what its data shows, in the words of its captions; other words do little or nothing.\n"
    told = [] if balance is None else [each for each in balance.unasked if not each.article and each.gap.is_told]
    for each in told:
        yield (
            f"- Asked for no {_spoken(each.attribute)}, it draws another balance than real pictures of these articles "
            f"have: {_leading({label: each.made.share(label).value for label in each.made.labels})}."
        )
    if balance is not None:
        yield "- Balance is what a judge sees, and it errs: do not build on differences smaller than its error.\n"


def _licences(subject: CardSubject) -> Iterator[str]:
    yield "## Licence chain\n"
    front = re.match(r"---\s*\n(.*?)\n---\s*\n", subject.readme, re.DOTALL)
    named = re.search(r"^license:\s*(\S+)\s*$", front[1], re.MULTILINE) if front else None
    rows = [("program", "toile", "Apache-2.0")]
    rows.append(("weights", plain(subject.model), plain(named[1]) if named else "not said: ask whoever trained them"))
    data = subject.provenance.recipe.get("data", {}) if subject.provenance is not None else {}
    if isinstance(data, Mapping) and data:
        known = None if data.get("path") else _LICENCES.get(str(data.get("source")))
        what, licence = known or (
            plain(data.get("path") or data.get("source")),
            "not known here: find out before you publish",
        )
        rows.append(("pictures", what, licence))
    elif section_of(subject.readme, "Data"):
        rows.append(("pictures", "see how it was trained", "as said there"))
    else:
        rows.append(("pictures", "not known", "not known"))
    yield from _table(("", "what", "licence"), rows)
    if written := section_of(subject.readme, "Licence", "License"):
        yield written + "\n"
