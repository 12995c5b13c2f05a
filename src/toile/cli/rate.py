"""toile rate: two makers of pictures, judged blind by people."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from toile.errors import ToileError

if TYPE_CHECKING:
    import numpy as np

    from toile.evaluation.contestants import Contestant
    from toile.evaluation.rating_results import QuestionResult, RaterFacts, RatingResult, Tally

PAGE_NAME, KEY_NAME = "rate.html", "key.json"


def rate(
    makers: list[str] | None = None,
    /,
    *,
    prompts_file: Path | None = None,
    num: Annotated[int, Parameter(name=["--num", "-n"])] = 40,
    seed: int = 0,
    out: Path = Path("rating"),
    read: Annotated[list[Path] | None, Parameter(consume_multiple=True)] = None,
    key: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    json_output: Annotated[bool, Parameter(name="--json")] = False,
) -> int:
    """Make a page on which people choose between two makers' pictures without knowing whose they are; read the answers.

    toile rate A B writes a page, to be given away, and a key, to be kept. toile rate --read answers*.json --key FILE
    says who is preferred, how sure that is and how far people agree.

    Args:
        makers: two of them: models, each with settings if need be ("fashion steps=10"), or folders of pictures made by
            toile, which are shown beside pictures of the same words.
        prompts_file: what two models show, one prompt a line; without it captions of held-out pictures of the products.
        num: pairs of pictures.
        seed: of the pictures, the choice of pairs, their order and sides.
        out: folder for the page and the key.
        read: answers that people sent, one file of each.
        key: of the page that they answered.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the result as JSON.
    """
    if read is not None:
        if makers or prompts_file is not None:
            raise ToileError("give either two makers of pictures, or --read with --key")
        return _read(read, key, json_output)
    if makers is None or len(makers) != 2 or key is not None:
        raise ToileError(
            "give two makers of pictures, for example toile rate fashion 'fashion steps=5', or --read FILE"
        )
    return _write(makers, prompts_file, num, seed, out, device, dtype, json_output)


def _write(
    makers: Sequence[str],
    prompts_file: Path | None,
    num: int,
    seed: int,
    out: Path,
    device: str,
    dtype: str,
    json_output: bool,
) -> int:
    from toile.cli.prompt_flags import read_prompts
    from toile.evaluation.contestants import FolderContestant, open_contestant, with_own_names
    from toile.evaluation.rating import MOST_PAIRS, build_rating, key_facts, pair_up
    from toile.weights.files import write_json_atomically, write_text_atomically

    if not 1 <= num <= MOST_PAIRS:
        raise ToileError(f"{num} pairs to rate; allowed: 1 to {MOST_PAIRS}")
    for name in (PAGE_NAME, KEY_NAME):
        if (out / name).exists():  # without its key, answers that people gave would be worth nothing
            raise ToileError(f"{out / name} is there already; give another folder with --out")
    prompts = None if prompts_file is None else read_prompts(None, prompts_file)
    opened = [open_contestant(maker, device, dtype) for maker in makers]
    with_own_names(opened)
    if prompts is None and not any(isinstance(each, FolderContestant) for each in opened):
        prompts = _held_out_captions(num, seed)
    a, b, texts = pair_up(opened[0], opened[1], prompts, num, seed)
    pictures = _pictures((a, b), texts, seed)
    rating = build_rating((a.name, b.name), texts, (pictures[0], pictures[1]), seed)
    write_json_atomically(out / KEY_NAME, key_facts(rating.key))
    write_text_atomically(out / PAGE_NAME, rating.page)
    again = len(rating.key.trials) - len(texts)
    if json_output:
        facts = {"page": str(out / PAGE_NAME), "key": str(out / KEY_NAME), "session": rating.key.session}
        print(json.dumps({**facts, "makers": [a.name, b.name], "pairs": len(texts), "shown_again": again}, indent=2))
    else:
        print(f"page for people: {out / PAGE_NAME} ({len(texts)} pairs, {again} of them shown twice)")
        print(f"key, to be kept: {out / KEY_NAME}")
        print(f"when answers are back: toile rate --read answers-*.json --key {out / KEY_NAME}")
    return 0


def _held_out_captions(num: int, seed: int) -> tuple[str, ...]:
    from toile.evaluation.suites import held_out
    from toile.training.pictures import DataConfig, PictureSet

    try:
        pictures = PictureSet(DataConfig(64, 80))
    except ToileError as error:
        raise ToileError(f"without --prompts-file the words come from held-out pictures, but: {error}") from error
    return held_out(pictures, num, seed).texts


def _pictures(makers: Sequence[Contestant], prompts: Sequence[str], seed: int) -> list[list[np.ndarray]]:
    from toile.cli.progress import ProgressDisplay

    made: list[list[np.ndarray]] = []
    with ProgressDisplay("pictures to rate") as display:
        for number, maker in enumerate(makers):
            made.append([])
            for picture in maker.make(prompts, seed):
                made[-1].append(picture)
                display.show((number + len(made[-1]) / len(prompts)) / len(makers), maker.name)
    return made


def _read(paths: Sequence[Path], key: Path | None, json_output: bool) -> int:
    from toile.evaluation.rating import read_answers, read_key
    from toile.evaluation.rating_results import read_results

    if key is None:
        raise ToileError("--read needs --key FILE, the key that was written with the page")
    opened = read_key(key)
    result = read_results(opened, read_answers(paths, opened))
    print(json.dumps(result.facts(), indent=2) if json_output else "\n".join(_lines(result)))
    return 0


def _lines(result: RatingResult) -> list[str]:
    people = f"{len(result.raters)} {'person' if len(result.raters) == 1 else 'people'}"
    lines = [f"{result.name_a} against {result.name_b}: {result.num_pairs} pairs, {people}"]
    for question in result.questions:
        lines += ["", question.sentence, *_question_lines(question, len(result.raters))]
    return [*lines, "", *(_rater_line(rater) for rater in result.raters)]


def _question_lines(question: QuestionResult, num_raters: int) -> list[str]:
    lines = [f"  pairs: {_counts(question, question.pairs)}; sign test without ties p = {question.p_value:.3g}"]
    if num_raters > 1:
        lines.append(f"  answers: {_counts(question, question.answers)}")
        defined = question.alpha is not None and question.alpha == question.alpha
        span = f"{question.alpha:.2f} ({question.alpha_low:.2f} to {question.alpha_high:.2f})"
        lines.append(f"  agreement of the people, Krippendorff's alpha: {span if defined else 'not defined'}")
    return lines


def _counts(question: QuestionResult, tally: Tally) -> str:
    return f"{tally.wins} for {question.name_a}, {tally.ties} ties, {tally.losses} for {question.name_b}"


def _rater_line(rater: RaterFacts) -> str:
    parts = [f"{rater.name}: {rater.num_answered} answered"]
    twice = [share for share in rater.consistent.values() if share is not None]
    if twice:
        same, total = sum(share.num_right for share in twice), sum(share.num_total for share in twice)
        parts.append(f"the same answer again in {same} of {total}")
    if rater.left is not None:
        low, high = rater.left.interval
        parts.append(f"left picture in {rater.left.value:.0%} of decided answers ({low:.0%} to {high:.0%})")
    return ", ".join(parts)
