"""toile models: what was fetched from the hub."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

from cyclopts import App, Parameter

models = App(name="models", help="Fetch models from the hub once, list them, remove them.")
_Json = Annotated[bool, Parameter(name="--json")]


@models.command
def get(model_id: str, *, revision: str = "main", json_output: _Json = False) -> int:
    """Download a model; afterwards --model ID finds it offline.

    Args:
        model_id: owner/name on the hub, of a model in the layout of diffusers.
        revision: a branch, tag or commit; what it stands for now is kept.
        json_output: print the result as JSON.
    """
    from toile.model_files.registry import fetch_model, models_folder

    record = fetch_model(model_id, revision)
    where = models_folder() / record.id
    size = f"{record.num_bytes / 1e9:.2f} GB in {len(record.files)} files"
    print(json.dumps(asdict(record), indent=2) if json_output else f"{where}: {size}, commit {record.revision[:12]}")
    return 0


@models.command(name="list")
def list_models(*, check: bool = False, json_output: _Json = False) -> int:
    """List the models that were fetched. With --check the exit code is 1 if a file was changed since.

    Args:
        check: compare every file with what was fetched.
        json_output: print the result as JSON.
    """
    from toile.model_files.registry import check_model, models_folder, registered_models

    records = registered_models()
    faults = {record.id: check_model(record) for record in records} if check else {}
    if json_output:
        print(json.dumps([{**asdict(record), "faults": faults.get(record.id)} for record in records], indent=2))
    else:
        print(f"fashion: bundled; fetched models are in {models_folder()}")
        for record in records:
            print(f"{record.id}: {record.num_bytes / 1e9:.2f} GB, commit {record.revision[:12]}")
            for line in faults.get(record.id, ()):
                print(f"  {line}")
    return 1 if any(faults.values()) else 0


@models.command
def remove(model_id: str) -> int:
    """Delete a model that was fetched.

    Args:
        model_id: owner/name.
    """
    from toile.model_files.registry import remove_model

    print(f"removed {remove_model(model_id)}")
    return 0
