"""One of several processes that train together; given a file of jobs, does one after the other.

    python sharded_worker.py JOBS

The environment says who it is, as a launcher would. What came of job N is written to the file JOBS.N.RANK.
"""

from __future__ import annotations

import itertools
import json
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from toile.errors import ToileError
from toile.training import plan
from toile.training.pictures import PictureSet
from toile.training.processes import Processes, join_processes
from toile.training.recipes import Recipe, load_recipe
from toile.training.records import EndRecord
from toile.training.run import build_task, run_recipe
from toile.training.sharding import WholeWeights, hold_weights
from toile.training.state import TrainingState, build_state


def train(recipe: Recipe, job: dict[str, Any]) -> dict[str, Any]:
    """Follows a run to its end, or until it has been asked so many times whether to stop."""
    out, asked, end = Path(job["out"]), itertools.count(), None
    stop_at = job.get("stop_at", 10**9)
    for record in run_recipe(recipe, out, resume=job.get("resume", False), should_stop=lambda: next(asked) >= stop_at):
        end = record
    assert isinstance(end, EndRecord)
    return {"step": end.step, "reason": end.reason, "exported": end.exported}


def shares(recipe: Recipe, processes: Processes) -> dict[str, Any]:
    """Numbers that this process holds after an update of sharded and of whole weights, by kind."""
    pictures = PictureSet(recipe.data)
    found = {}
    for sharded in (False, True):
        objective = build_task(recipe, pictures).objective
        weights = hold_weights(objective.module, sharded, processes)
        state = build_state(weights, 1e-3, (0.9, 0.99), 0.01, recipe.loop.ema_widths)
        weights.send_back(weights.loss(partial(objective.loss, objective.batch(range(2)), 0)).total)
        weights.collect_gradients(1.0)
        state.optimizer.step()
        found["sharded" if sharded else "whole"] = held(weights, state)
    return found


def held(weights: WholeWeights, state: TrainingState) -> dict[str, int]:
    named, trained = dict(weights.named_parameters()), weights.trained().values()
    moments = [slot for slots in state.optimizer.state.values() for slot in slots.values() if slot.ndim]
    return {
        "weights": sum(weight.numel() for weight in named.values()),
        "in the module": sum(memory(weight) for weight in weights.module.parameters()),
        "gradients": sum(weight.grad.numel() for weight in trained if weight.grad is not None),
        "moments": sum(moment.numel() for moment in moments),
        "averages": sum(value.numel() for average in state.averages for value in average.averages.values()),
    }


def _constant(value: int, device: torch.device) -> int:
    return value


def memory(weight: torch.Tensor) -> int:
    """Numbers for which the memory behind a parameter has room."""
    local = weight.to_local() if isinstance(weight, DTensor) else weight
    return local.untyped_storage().nbytes() // local.element_size()


def plans(recipe: Recipe, processes: Processes, free_share: float) -> dict[str, Any]:
    """What the plan says where there is memory for a share of the moments."""
    pictures, found = PictureSet(recipe.data), {}
    for sharded in (False, True):
        objective = build_task(recipe, pictures).objective
        numbers = sum(weight.numel() for weight in objective.module.parameters())
        free = int(free_share * 8 * numbers / 0.9)
        vars(plan)["available_bytes"] = partial(_constant, free)
        weights = hold_weights(objective.module, sharded, processes)
        config = replace(recipe.loop, micro_batch_size=1)
        try:
            record = plan.plan_run(objective, config, Path("nowhere"), weights)
            found["sharded" if sharded else "whole"] = str(record.disk_bytes / numbers)
        except ToileError as error:
            found["sharded" if sharded else "whole"] = str(error)
    return found


def main() -> None:
    jobs, processes = Path(sys.argv[1]), join_processes()
    for number, job in enumerate(json.loads(jobs.read_text())):
        if "copy_of" in job and processes.is_first:
            shutil.copytree(job["copy_of"], job["out"])
        distributed.barrier()
        recipe = load_recipe(Path(job["recipe"]), job.get("overrides", []))
        try:
            if job.get("what") == "shares":
                found = shares(recipe, processes)
            elif job.get("what") == "plans":
                found = plans(recipe, processes, job["free_share"])
            else:
                found = train(recipe, job)
        except ToileError as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        jobs.with_name(f"{jobs.name}.{number}.{processes.rank}").write_text(json.dumps(found))
        distributed.barrier()


if __name__ == "__main__":
    main()
