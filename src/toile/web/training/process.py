"""The process that trains: the same run as that of `toile train`, told when to begin and when to stop."""

from __future__ import annotations

import io
import math
import os
import signal
import time
import traceback
from contextlib import closing
from dataclasses import replace
from multiprocessing.connection import Connection
from types import FrameType

import torch
from PIL import Image

from toile.data.images import contact_sheet, pixels_from_images
from toile.errors import ToileError
from toile.lora import LORAS
from toile.training.recipes import LoRARecipe
from toile.training.records import DataRecord, EndRecord, PlanRecord, StepRecord
from toile.training.run import run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.web.training.messages import Failed, FromProcess, Go, Order, Over, Passed, Plan, Stop
from toile.weights.files import write_atomically

_SECONDS_BETWEEN_STEPS = 0.2  # that are told
_LONGEST_WAIT = 1800.0  # of a plan, which holds memory
_SHEET_SIDE = 96


def run_training(connection: Connection, order: Order) -> None:
    """Plans a training, waits for `Go`, trains, and says how it ended; started in a process of its own.

    When the other end of the connection is closed, in whatever way, it saves after the current step and ends.
    """
    wishes = Wishes(connection)
    # The studio decides about Ctrl-C, which reaches all processes of a terminal.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, wishes.on_signal)
    if hasattr(os, "nice"):
        os.nice(order.niceness)
    if order.threads is not None:
        torch.set_num_threads(order.threads)
    try:
        _train(wishes, order)
    except ToileError as error:
        wishes.tell(Failed(str(error)))
    except Exception as error:  # the studio goes on, and shows what happened
        traceback.print_exc()
        wishes.tell(Failed(f"{type(error).__name__}: {error}"))


class Wishes:
    """What the other end of a connection wants."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.is_stopped = self._may_begin = False

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        """For SIGTERM."""
        self.is_stopped = True

    def hear(self, seconds: float = 0.0) -> None:
        """Takes what has been said, and waits so long for something."""
        try:
            while self._connection.poll(seconds):
                message = self._connection.recv()
                self.is_stopped |= isinstance(message, Stop)
                self._may_begin |= isinstance(message, Go)
                seconds = 0.0
        except (EOFError, OSError):  # nobody is there any more
            self.is_stopped = True

    def should_stop(self) -> bool:
        """Whether to save and end."""
        self.hear()
        return self.is_stopped

    def may_begin(self) -> bool:
        """Waits until it is told to begin, that nothing comes of it, or nobody has said anything for long."""
        end = time.monotonic() + _LONGEST_WAIT
        while not (self.is_stopped or self._may_begin) and time.monotonic() < end:
            self.hear(1.0)
        return self._may_begin and not self.is_stopped

    def tell(self, message: FromProcess) -> None:
        """Says something; if nobody listens it is to stop."""
        try:
            self._connection.send(message)
        except OSError:
            self.is_stopped = True


def _train(wishes: Wishes, order: Order) -> None:
    data: DataRecord | None = None
    pace = Pace(order.recipe.loop.steps, order.minutes)
    records = run_recipe(
        order.recipe, order.folder, resume=order.resume, minutes=order.minutes, should_stop=wishes.should_stop
    )
    with closing(records):
        for record in records:
            if isinstance(record, DataRecord):
                data = record
            elif isinstance(record, PlanRecord):
                assert data is not None
                wishes.tell(_plan(data, record, order.recipe.loop.steps))
                if not order.resume and not wishes.may_begin():
                    return
                pace.begin()
            elif isinstance(record, StepRecord):
                if (passed := pace.passed(record)) is not None:
                    wishes.tell(passed)
            elif isinstance(record, EndRecord):
                wishes.tell(_published(order, record))


class Pace:
    """How fast steps pass, all that is done between them included.

    Args:
        steps: of the whole run.
        minutes: that it may take at most, or None.
    """

    def __init__(self, steps: int, minutes: float | None) -> None:
        self._steps = steps
        self._most = math.inf if minutes is None else 60.0 * minutes
        self._begun = self._told = 0.0
        self._first: int | None = None

    def begin(self) -> None:
        """Now the first step begins."""
        self._begun = time.monotonic()

    def passed(self, record: StepRecord) -> Passed | None:
        """What to tell of a step; None where one was told just before."""
        now = time.monotonic()
        if self._first is None:
            self._first = record.step - 1
        if record.step < self._steps and now < self._told + _SECONDS_BETWEEN_STEPS:
            return None
        self._told = now
        each = (now - self._begun) / (record.step - self._first)
        left = min(each * (self._steps - record.step), self._begun + self._most - now)
        return Passed(record.step, record.loss, max(0.0, left))


def _plan(data: DataRecord, plan: PlanRecord, steps: int) -> Plan:
    pictures = []
    for image in data.images:
        picture = Image.fromarray(pixels_from_images(image[None])[0].numpy())
        picture.thumbnail((_SHEET_SIDE, _SHEET_SIDE))
        pictures.append(picture)
    file = io.BytesIO()
    contact_sheet(pictures, columns=6).save(file, "PNG")
    return Plan(
        data.summary,
        data.num_train,
        data.num_held_out,
        data.captions,
        file.getvalue(),
        steps,
        plan.seconds,
        plan.seconds_per_step,
        plan.micro_batch_size,
        plan.num_weights,
        plan.peak_bytes,
        plan.disk_bytes,
    )


def _published(order: Order, end: EndRecord) -> Over:
    """Puts a LoRA among those that pictures can be made with; its name says so if not all steps are done."""
    over = Over(end.reason, end.step)
    if end.reason == "stopped" or order.publish_as is None or not isinstance(order.recipe, LoRARecipe):
        return over
    file = order.folder / MODEL_FOLDER / "lora.safetensors"
    name = order.publish_as if end.reason == "done" else f"{order.publish_as}-step-{end.step}"
    try:
        LORAS.folder.mkdir(parents=True, exist_ok=True)
        name = _free_name(name)
        write_atomically(LORAS.folder / f"{name}{file.suffix}", file.read_bytes())
    except (OSError, ToileError) as error:
        return replace(over, note=f"its LoRA is {file}, and could not be put into {LORAS.folder}: {error}")
    return replace(over, lora=name)


def _free_name(wanted: str) -> str:
    """A name that no LoRA has: none is ever replaced."""
    known = {name.casefold() for name in LORAS.names()}
    name, number = wanted, 2
    while name.casefold() in known:
        name, number = f"{wanted}-{number}", number + 1
    return name
