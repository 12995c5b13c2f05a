"""toile card: the model card of a model."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from toile.cli.evaluation_flags import MachineFlags, RealDataFlags
from toile.errors import ToileError

if TYPE_CHECKING:
    from toile.evaluation.model_balance import ModelBalance
    from toile.evaluation.model_card import CardSubject
    from toile.training.pictures import DataConfig

_README = "README.md"
_SETTINGS = ("width", "height", "sampler", "steps", "guidance", "negative")
_LONGEST_README = 200_000
_REAL, _MACHINE = RealDataFlags(), MachineFlags()


def card(
    model: str = "fashion",
    /,
    *,
    evaluation: Path | None = None,
    pictures: Annotated[bool, Parameter(negative="--no-pictures")] = True,
    num: Annotated[int, Parameter(name=["--num", "-n"])] = 300,
    num_neutral: int = 25,
    seed: int = 0,
    judge: Path | None = None,
    out: Path = Path("model-card.md"),
    real: RealDataFlags = _REAL,
    machine: MachineFlags = _MACHINE,
) -> int:
    """Write a model's card: what it is and learnt from, whom and what it draws, its scores, limits and licences.

    Pictures are made to see whether it keeps the balance of the data, and what it draws when words leave that open. The
    real pictures are looked for in the folder that the environment variable TOILE_DATA names.

    Args:
        model: the name of the bundled model, a model folder, or a model's file.
        evaluation: the evaluation.json of this model, as toile evaluate writes it.
        pictures: measure the balance; --no-pictures writes down what is known without.
        num: captions of held-out pictures to make pictures for.
        num_neutral: pictures for each of eight words such as "shirt".
        seed: of the first picture, and of the draws.
        judge: folder of a classifier that names what pictures show; by default the one that comes with the program.
        out: the file of the card; one that toile card did not write is never replaced.
    """
    from toile.evaluation.card_scores import read_scores
    from toile.evaluation.model_card import MARK, render_card
    from toile.weights.files import write_text_atomically

    if out.exists() and not _begins_with(out, MARK):
        raise ToileError(f"{out} exists and is no card of toile; give another file with --out")
    subject = _subject(model)
    scores = None if evaluation is None else read_scores(evaluation, subject.hash)
    balance = None
    if pictures:
        balance = _measure(model, subject, real.config(), judge, (num, num_neutral), seed, machine)
    write_text_atomically(out, render_card(subject, balance, scores))
    if machine.json_output:
        print(json.dumps({"card": str(out), "balance": None if balance is None else balance.facts()}, indent=2))
    else:
        print(f"card of {model}: {out}")
        if scores is None:
            print(
                f"without scores: toile evaluate {model} --out evaluation, then --evaluation evaluation/evaluation.json"
            )
    return 0


def _begins_with(path: Path, mark: str) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(len(mark)) == mark.encode()
    except OSError as error:
        raise ToileError(f"cannot read {path}: {error.strerror}") from error


def _subject(model: str) -> CardSubject:
    from toile.evaluation.model_card import CardSubject
    from toile.model_description import describe_model
    from toile.model_folder import read_model_facts
    from toile.weights.provenance import read_provenance

    description = describe_model(model)
    place = Path(description.folder)
    return CardSubject(
        model=model if not Path(model).exists() else description.name,
        hash=description.hash,
        parts=tuple((each.name, each.parameters, each.file_bytes / 1e6) for each in description.networks),
        components=asdict(read_model_facts(model).components),
        details={
            "latents": f"{description.latent_channels} channels, one position for "
            f"{description.downsampling}x{description.downsampling} pixels",
            "words": f"{description.vocabulary:,} tokens, {description.longest_prompt} of a prompt in a row",
            "noise levels": f"sigma {description.sigma_min:.4g} to {description.sigma_max:.4g}",
        },
        settings={name: getattr(description.defaults, name) for name in _SETTINGS},
        readme=_readme(place / _README) if place.is_dir() else "",
        provenance=read_provenance(place),
    )


def _readme(path: Path) -> str:
    """What people wrote beside the weights; not a card that was written from it before."""
    from toile.evaluation.model_card import MARK

    if not path.is_file():
        return ""
    text = path.read_bytes()[:_LONGEST_README].decode("utf-8", errors="replace")
    return "" if text.startswith(MARK) else text


def _measure(
    model: str,
    subject: CardSubject,
    config: DataConfig,
    judge: Path | None,
    nums: tuple[int, int],
    seed: int,
    machine: MachineFlags,
) -> ModelBalance:
    import numpy as np
    import torch
    from PIL import Image

    from toile.cli.progress import ProgressDisplay
    from toile.data.images import pad_to, pixels_of
    from toile.evaluation.contestants import open_contestant
    from toile.evaluation.feature_networks import ATTRIBUTES, find_judge, open_feature_network, refuse_partial
    from toile.evaluation.features import load_evaluator
    from toile.evaluation.model_balance import answer_balance, ask_for_balance
    from toile.training.pictures import PictureSet

    network = open_feature_network(ATTRIBUTES if judge is None else f"{ATTRIBUTES}={judge}")
    pictures = PictureSet(config)
    refuse_partial(network, subject.provenance, pictures.pixels_identity)
    classifier = load_evaluator(find_judge(ATTRIBUTES) if judge is None else judge, pictures.pixels_identity)
    question = ask_for_balance(pictures, classifier.config.labels, *nums, seed)
    made: list[np.ndarray] = []
    with ProgressDisplay("pictures for the card") as display:
        for picture in open_contestant(shlex.quote(model), machine.device, machine.dtype).make(question.prompts, seed):
            made.append(pixels_of(pad_to(Image.fromarray(picture), config.width, config.height)))
            display.show(len(made) / len(question.prompts))
    pixels = torch.from_numpy(np.stack(made))
    return answer_balance(question, pictures, classifier, pixels, (network.name, network.sha256), seed)
