"""What makers are asked for: the real pictures with their words, and a prompt for each picture that is to be judged."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from toile.data.records import Source
from toile.data.sources import find_data, open_source
from toile.errors import ToileError
from toile.evaluation.contestants import Contestant, FolderContestant
from toile.evaluation.real_side import RealSide
from toile.evaluation.suites import Prompt
from toile.training.pictures import DataConfig, colour_and_article


def data_for(config: DataConfig, contestants: Sequence[Contestant]) -> DataConfig:
    """The data as makers can be asked for them.

    Pictures without words of their own are called what `config` says, or else what the recipes of those makers say that
    learnt from these pictures, if they agree; so it is with the trigger. Folders of pictures need no words. Pairs of
    colour and article that all makers left out of training are left out of what they could have copied.

    Raises:
        ToileError: a model is to make pictures, and nothing says what of.
    """
    caption, source = _open(config)
    told = [
        data
        for contestant in contestants
        for provenance in contestant.provenances
        if provenance.held_out.startswith(f"{source.identity}:") and isinstance(data := _data_of(provenance), Mapping)
    ]
    caption = config.caption or _agreed(told, "caption") or caption
    trigger = config.trigger or _agreed(told, "trigger")
    has_makers = any(not isinstance(contestant, FolderContestant) for contestant in contestants)
    if has_makers and caption == "" and not trigger:
        raise ToileError(
            f"{config.path or config.source} has pictures without words: say what models are asked for, for example "
            '--caption "painting of a landscape"'
        )
    known = {colour_and_article(record.fields) for record in source.records}
    removed = tuple(pair for pair in _removed_for_all(contestants) if pair in known)
    return replace(config, caption=caption, trigger=trigger, unseen=removed)


def _open(config: DataConfig) -> tuple[str | None, Source]:
    """The data, and what pictures without words are called: "" where all are without, and nothing is said."""
    path = find_data(config.source, config.path)
    try:
        return config.caption, open_source(path, config.caption)
    except ToileError:
        if config.caption is not None:
            raise
        return "", open_source(path, "")


def _data_of(provenance: Any) -> Any:
    return provenance.recipe.get("data")


def _agreed(told: Sequence[Mapping[str, Any]], name: str) -> str:
    """What all that say it say; "" where none does, or they differ."""
    values = {str(data[name]) for data in told if data.get(name)}
    return values.pop() if len(values) == 1 else ""


def _removed_for_all(contestants: Sequence[Contestant]) -> tuple[str, ...]:
    """Pairs of colour and article that every model's training left out on purpose (`data.unseen`)."""
    known = [provenance for contestant in contestants for provenance in contestant.provenances]
    left_out = [set(provenance.recipe.get("data", {}).get("unseen", ())) for provenance in known]
    trained = [contestant for contestant in contestants if not isinstance(contestant, FolderContestant)]
    if not left_out or any(not contestant.provenances for contestant in trained):
        return ()
    return tuple(sorted(set.intersection(*left_out)))


def ask(real: RealSide, contestants: Sequence[Contestant], num_pictures: int) -> tuple[tuple[Prompt, ...], str]:
    """A prompt for each picture, and what they are called: those of held-out pictures, or those of a folder.

    Args:
        num_pictures: so many, or as many as the smallest folder has.

    Raises:
        ToileError: folders whose prompts differ, or are not known where models are to make pictures for them.
    """
    folders = [contestant for contestant in contestants if isinstance(contestant, FolderContestant)]
    if not folders:
        return real.prompts_for(num_pictures), real.suite.name
    known: dict[str, list[Prompt]] = {}
    for prompt in real.suite.prompts:
        if prompt.text:
            known.setdefault(prompt.text, []).append(prompt)
    fewest = min(len(folder.paths) for folder in folders)
    texts = folders[0].prompts[: min(num_pictures, fewest)]
    if len(contestants) > len(folders) and not all(texts):
        raise ToileError(f"{folders[0].name} has pictures without a recipe: nobody knows what a model should make")
    for folder in folders[1:]:
        if folder.prompts[: len(texts)] != texts:
            raise ToileError(f"{folders[0].name} and {folder.name} have pictures of different prompts: not comparable")
    counts = Counter[str]()
    prompts = []
    for text in texts:  # of several real pictures of one caption each is taken in turn
        of_text = known.get(text, [Prompt(text)])
        prompts.append(of_text[counts[text] % len(of_text)])
        counts[text] += 1
    return tuple(prompts), f"prompts of {folders[0].name}"
