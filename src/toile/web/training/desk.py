"""All that the engineers' tabs stand on, and the folders that whoever starts the studio lets them see."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from toile.errors import ToileError
from toile.lora import LORAS
from toile.training.recipes import Recipe, load_recipe
from toile.training.run_summary import RECIPE_NAME
from toile.web.jobs.shelf import ServedModel
from toile.web.training.messages import Order
from toile.web.training.picture_sets import PictureSets, checked_name
from toile.web.training.report_shelf import ReportShelf
from toile.web.training.run_shelf import RunShelf
from toile.web.training.trainer import Trainer, Training
from toile.web.training.wish import LORA, Wish


@dataclass(frozen=True)
class DeskConfig:
    """Of the engineers' tabs.

    Attributes:
        out: the studio's folder; in `training/` of it are the runs that are started there and uploaded pictures.
        pictures: folders whose pictures, folders of pictures and zips may be learnt from.
        runs: folders of runs that are shown too.
        reports: folders in which evaluations are looked for.
        threads: of the CPU, for a training; None leaves PyTorch's choice.
        niceness: how far the process that trains stands back behind others, as `nice` counts.
        upload_bytes: of all uploaded pictures together.

    Raises:
        ToileError: one of the folders is none.
    """

    out: Path
    pictures: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()
    reports: tuple[Path, ...] = ()
    threads: int | None = None
    niceness: int = 10
    upload_bytes: int = 2 * 1024**3

    def __post_init__(self) -> None:
        for flag, folders in (("--pictures", self.pictures), ("--runs", self.runs), ("--reports", self.reports)):
            for folder in folders:
                if not folder.is_dir():
                    raise ToileError(f"{flag} {folder} is no folder")

    @property
    def own_runs(self) -> Path:
        """Of the trainings that are started on the page."""
        return self.out / "training" / "runs"

    @property
    def own_pictures(self) -> Path:
        """Of the pictures that come through the page."""
        return self.out / "training" / "pictures"


class Desk:
    """Trainings, the runs they leave, pictures to learn from, and reports. Call `close` when the studio ends.

    Args:
        config: see there.
    """

    def __init__(self, config: DeskConfig) -> None:
        self.config = config
        self.trainer = Trainer()
        self.pictures = PictureSets(config.pictures, config.own_pictures, config.upload_bytes)
        self.runs = RunShelf(config.own_runs, config.runs)
        self.reports = ReportShelf(config.reports)

    def plan(self, name: str, wish: Wish, base: ServedModel, pictures: str) -> Training:
        """Begins to plan a training, which then waits to be started.

        Args:
            name: of the run, and of its LoRA.
            wish: how to train.
            base: the model that learns.
            pictures: id of a set.

        Raises:
            BusyError: another training is at work.
            NoSuchPlaceError: there is no such set.
            ToileError: a value that is not allowed, a name that is taken.
        """
        self.trainer.check_free()
        folder = self.config.own_runs / checked_name(name)
        if folder.exists():
            raise ToileError(f"name: there is a run {name!r} already; resume it, or choose another name")
        if wish.what == LORA and name.casefold() in {known.casefold() for known in LORAS.names()}:
            raise ToileError(f"name: there is a LoRA {name!r} already; choose another name")
        recipe = wish.recipe(base, self.pictures.find(pictures).path)
        return self.trainer.begin(self._order(recipe, folder, minutes=wish.minutes))

    def resume(self, run: str) -> Training:
        """Goes on with a run that was started on the page and has not done all its steps.

        Raises:
            BusyError: another training is at work.
            NoSuchPlaceError: there is no such run.
            ToileError: it was not started here, or has nothing to go on from.
        """
        self.trainer.check_free()
        shown = self.runs.one(run)
        if not shown.can_resume:
            raise ToileError(f"{shown.summary.name} cannot be resumed here: {shown.summary.state}")
        recipe = load_recipe(shown.folder / RECIPE_NAME)
        return self.trainer.begin(self._order(recipe, shown.folder, resume=True))

    def _order(self, recipe: Recipe, folder: Path, resume: bool = False, minutes: float | None = None) -> Order:
        return Order(recipe, folder, resume, minutes, folder.name, self.config.threads, self.config.niceness)

    def close(self) -> None:
        """Stops the training there is, with its state saved."""
        self.trainer.close()
