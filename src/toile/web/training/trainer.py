"""One training at a time, as the page sees it: planned, started, stopped, resumed; and ended well with the studio."""

from __future__ import annotations

import multiprocessing
import threading
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess

from toile.errors import ToileError
from toile.training.recipes import FineTuneRecipe, LoRARecipe
from toile.web.training.messages import Failed, FromProcess, Go, Order, Over, Passed, Plan, Stop, ToProcess
from toile.web.training.places import place_id

# A step may take long, and then a state is written; what was saved before stands if it takes longer.
_SECONDS_TO_SAVE = 60.0
_ACTIVE = ("planning", "running", "stopping")


class BusyError(ToileError):
    """There is a training already."""


@dataclass(frozen=True)
class Training:
    """A training as it stands.

    Attributes:
        run: id of its run.
        name: of the run.
        state: "planning": pictures are read, steps tried; "planned": nothing is written, waits to be started;
            "running"; "stopping": until the step is done and the state saved; "done"; "time": its minutes are over,
            resumable; "stopped", resumable; "dropped": planned and not started in time; "failed".
        base: what `load` opens, the model that learns; "" for a run that begins with none.
        is_resumed: it goes on with a run that was there.
        plan: as soon as there is one.
        step, steps: done and asked for.
        loss: of the last step that was told.
        seconds_left: roughly; None before that is known.
        lora: name under which its LoRA can be used, once there is one.
        note: what else is to be said of how it ended.
        error: why it failed.
    """

    run: str
    name: str
    state: str
    base: str
    is_resumed: bool
    steps: int
    plan: Plan | None = None
    step: int = 0
    loss: float | None = None
    seconds_left: float | None = None
    lora: str | None = None
    note: str = ""
    error: str | None = None

    @property
    def is_active(self) -> bool:
        """Whether a process works at it now."""
        return self.state in _ACTIVE


class Trainer:
    """May be used from any thread. Call `close` when the studio ends."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._training: Training | None = None
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._listener: threading.Thread | None = None
        self._is_closed = False

    def now(self) -> Training | None:
        """The training there is, or the last one; None before the first."""
        with self._lock:
            return self._training

    def check_free(self) -> None:
        """Whether a training could be planned now.

        Raises:
            BusyError: another one is at work.
        """
        with self._lock:
            if self._is_closed:
                raise BusyError("the studio is being closed")
            if self._training is not None and self._training.is_active:
                raise BusyError(f"{self._training.name} is being trained; one training at a time")

    def begin(self, order: Order) -> Training:
        """Starts a process that plans a training, and then waits for `start`; one that is resumed goes on by itself.

        A plan that was waiting is dropped.

        Raises:
            BusyError: another training is at work.
        """
        from toile.web.training.process import run_training

        with self._lock:
            self.check_free()
            self._kill()  # the one that waits with its plan; what it still says is not heard any more
            context = multiprocessing.get_context("spawn")
            ours, theirs = context.Pipe()
            process = context.Process(target=run_training, args=(theirs, order), name="toile-trainer", daemon=True)
            process.start()
            theirs.close()  # else its end would stay open when it dies
            self._process, self._connection = process, ours
            recipe = order.recipe
            base = recipe.base if isinstance(recipe, LoRARecipe | FineTuneRecipe) else ""
            self._training = Training(
                place_id(order.folder), order.folder.name, "planning", base, order.resume, recipe.loop.steps
            )
            self._listener = threading.Thread(
                target=self._listen, args=(ours, process), name="toile-trainer-listener", daemon=True
            )
            self._listener.start()
            return self._training

    def start(self, run: str) -> Training:
        """Begins what was planned.

        Raises:
            ToileError: there is no such plan.
        """
        with self._lock:
            training = self._current(run)
            if training.state != "planned":
                raise ToileError(f"{training.name} has no plan that waits: it is {training.state}")
            self._send(Go())
            return self._change(state="running")

    def stop(self, run: str) -> Training:
        """Stops a training after its step, with its state saved; one that is only planned leaves nothing.

        Raises:
            ToileError: there is no such training.
        """
        with self._lock:
            training = self._current(run)
            if training.state == "running":
                self._send(Stop())
                return self._change(state="stopping")
            if training.state in ("planning", "planned"):
                self._kill()
                return self._change(state="stopped" if training.is_resumed else "dropped")
            return training

    def close(self) -> None:
        """Stops what there is, waits until its state is saved, and takes no more."""
        with self._lock:
            self._is_closed = True
            training, process, listener = self._training, self._process, self._listener
            if training is None or process is None:
                return
            if training.state in ("running", "stopping"):
                self._send(Stop())
            else:
                self._kill()
        assert listener is not None
        listener.join(_SECONDS_TO_SAVE)
        with self._lock:
            self._kill()

    # ------------------------------------------------------------------------------------------------------- within

    def _current(self, run: str) -> Training:
        if self._training is None or self._training.run != run:
            raise ToileError("there is no such training")
        return self._training

    def _change(self, **what: object) -> Training:
        assert self._training is not None
        self._training = replace(self._training, **what)  # type: ignore[arg-type]
        return self._training

    def _send(self, message: ToProcess) -> None:
        assert self._connection is not None
        try:
            self._connection.send(message)
        except OSError:
            pass  # it is dead, which the listener finds out

    def _kill(self) -> None:
        """Ends the process at once; its listener finds out, and buries it."""
        if self._process is not None:
            self._process.kill()

    def _listen(self, connection: Connection, process: SpawnProcess) -> None:
        """In a thread: takes what a process says, until it is dead."""
        while True:
            try:
                message: FromProcess = connection.recv()
            except (EOFError, OSError):
                break
            with self._lock:
                if self._process is process:
                    self._hear(message)
        process.join()
        code = process.exitcode
        with self._lock:
            if self._process is process:
                if self._training is not None and self._training.state == "planned" and code == 0:
                    self._change(state="dropped")  # it has waited for long
                elif self._training is not None and (self._training.is_active or self._training.state == "planned"):
                    how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
                    self._change(state="failed", error=f"its process ended with {how}; the last saved state stands")
                self._process = self._connection = None
            connection.close()
            process.close()

    def _hear(self, message: FromProcess) -> None:
        training = self._training
        assert training is not None
        if isinstance(message, Plan):
            if training.state == "planning":
                self._change(plan=message, state="running" if training.is_resumed else "planned")
        elif isinstance(message, Passed):
            self._change(step=message.step, loss=message.loss, seconds_left=message.seconds_left)
        elif isinstance(message, Over):
            self._change(
                state=message.reason, step=message.step, lora=message.lora, note=message.note, seconds_left=None
            )
        elif isinstance(message, Failed):
            self._change(state="failed", error=message.error, seconds_left=None)
