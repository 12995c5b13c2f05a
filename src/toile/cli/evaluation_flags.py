"""The flags that commands of evaluation share: which real pictures others are held against, how, and where."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from toile.evaluation.defaults import NUM_PICTURES, NUM_SETS, SIZE

if TYPE_CHECKING:
    from toile.evaluation.run import EvaluationRequest
    from toile.training.pictures import DataConfig


@Parameter(name="*")
@dataclass(frozen=True)
class RealDataFlags:
    """The real pictures.

    Attributes:
        data: the real pictures: products, fashion-mnist, monet, or what toile data get fetched.
        data_path: a zip or folder of real pictures instead.
        split_seed: of the split that keeps some of them away from training.
        size: width x height at which pictures are judged.
    """

    data: str = "products"
    data_path: Path | None = None
    split_seed: int = 0
    size: str = f"{SIZE[0]}x{SIZE[1]}"

    def config(self) -> DataConfig:
        """What the flags say.

        Raises:
            ToileError: a size that is none.
        """
        from toile.cli.generate import parse_size
        from toile.training.pictures import DataConfig

        return DataConfig(*parse_size(self.size), source=self.data, path=self.data_path, split_seed=self.split_seed)


@Parameter(name="*")
@dataclass(frozen=True)
class MachineFlags:
    """Where models run, and what is printed.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: auto, float32, bfloat16 or float16.
        json_output: print the numbers as JSON.
    """

    device: str = "auto"
    dtype: str = "auto"
    json_output: Annotated[bool, Parameter(name="--json")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class EvaluationFlags:
    """How makers of pictures are judged.

    Attributes:
        num: pictures of each maker, to make and judge.
        sets: disjoint sets of them, with seeds and prompts of their own, that intervals come from.
        seed: of the first picture.
        networks: what looks at pictures, the most trusted first: attributes, words and random come with the program;
            inception=FILE, clip=FOLDER and dinov2=FOLDER are for published weights that you have. By default the first
            three; for pictures without labels of articles, random alone, with fewer features where pictures are few.
        caption: what models are asked for where real pictures have no words of their own; by default what the recipe of
            a model that learnt from them says.
        trigger: a word that models are told before each caption; by default that recipe's.
        quick: leave out what needs more pictures and trainings: unseen pairs, swapped words, variety, teaching.
        out: folder for the page, the numbers and the pictures; pictures that are there already are not made again.
    """

    num: Annotated[int, Parameter(name=["--num", "-n"])] = NUM_PICTURES
    sets: int = NUM_SETS
    seed: int = 0
    networks: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    caption: str | None = None
    trigger: str = ""
    quick: bool = False
    out: Path = Path("evaluation")

    def request(self, sources: list[str], real: RealDataFlags, machine: MachineFlags) -> EvaluationRequest:
        """What is asked for.

        Raises:
            ToileError: numbers out of range, or a size that is none.
        """
        from toile.evaluation.run import EvaluationRequest

        return EvaluationRequest(
            tuple(sources),
            self.out,
            self.num,
            self.sets,
            self.seed,
            None if self.networks is None else tuple(self.networks),
            replace(real.config(), caption=self.caption, trigger=self.trigger),
            not self.quick,
            machine.device,
            machine.dtype,
        )
