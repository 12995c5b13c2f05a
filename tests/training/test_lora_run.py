"""Fine-tuning with LoRA: frozen weights stay, resuming is exact, and the file does what was learnt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from toile.errors import ToileError
from toile.generation.pictures import Picture, generate
from toile.generation.request import GenerateRequest
from toile.latent_diffusion import LatentDiffusion
from toile.lora import load_lora
from toile.text.lora_tags import LoRAUse
from toile.training.fine_tuning import FineTuneTask, LoRATask
from toile.training.pictures import DataConfig, PictureSet
from toile.training.recipes import LoRARecipe, Recipe, load_recipe, recipe_facts
from toile.training.records import EndRecord, Record, StepRecord, ValidationRecord
from toile.training.run import build_task, run_recipe
from toile.training.run_folder import MODEL_FOLDER
from toile.user_folders import CACHE_VARIABLE
from toile.weights.files import load_tensors

RECIPE = """
task = "lora"
base = "{base}"
[data]
path = "{data}"
width = 16
height = 16
[lora]
rank = 2
alpha = 4
[objective]
uncond_share = 0.0
uniform_share = 1.0
sample_prompts = ["red belt"]
sample_steps = 2
[loop]
steps = 6
batch_size = 4
learning_rate = 1e-2
warmup_steps = 1
precision = "float32"
ema_widths = [0.1]
validate_every = 3
sample_every = 3
save_every = 2
"""


@pytest.fixture
def recipe(tiny_folder: Path, picture_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tmp_path / "lora.toml"
    path.write_text(RECIPE.format(base=tiny_folder, data=picture_folder), encoding="utf-8")
    return path


def follow(recipe: Path, folder: Path, *overrides: str, resume: bool = False) -> list[Record]:
    return list(run_recipe(load_recipe(recipe, overrides), folder, resume=resume))


def task_of(recipe: Path, *overrides: str) -> LoRATask:
    read = load_recipe(recipe, overrides)
    assert isinstance(read, LoRARecipe)
    task = build_task(read, PictureSet(read.data))
    assert isinstance(task, LoRATask)
    return task


def test_a_run_leaves_a_lora_that_changes_pictures(recipe: Path, tiny_folder: Path, tmp_path: Path) -> None:
    records = follow(recipe, tmp_path / "run")
    end = records[-1]
    assert isinstance(end, EndRecord) and end.reason == "done"
    file = tmp_path / "run" / MODEL_FOLDER / "lora.safetensors"
    model = LatentDiffusion.load(tiny_folder, "cpu", "float32")
    lora = load_lora(str(file), model)
    assert {path.rsplit(".", 1)[-1] for path in lora.changes} == {"to_q", "to_k", "to_v", "0"}
    assert all(change.rank == 2 and change.alpha == 4.0 for change in lora.changes.values())
    plain, changed = (
        [event for event in generate(model, GenerateRequest(("red belt",), loras=loras)) if isinstance(event, Picture)]
        for loras in ((), (LoRAUse(str(file)),))
    )
    assert plain[0].pixels.tobytes() != changed[0].pixels.tobytes()
    for name in ("step-0000000", "step-0000003", "step-0000006"):
        assert (tmp_path / "run" / "samples" / f"{name}.png").is_file()
    assert (tmp_path / "run" / "stages.png").is_file()


def test_the_state_holds_what_learns_and_nothing_else(recipe: Path, tmp_path: Path) -> None:
    follow(recipe, tmp_path / "run")
    [*_, newest] = sorted((tmp_path / "run" / "state").glob("*.safetensors"))
    names = {name.split(".", 1)[1] for name in load_tensors(newest) if name.startswith("module.")}
    assert names and all(name.startswith("of_layers.") and name.rsplit(".", 1)[1] in ("down", "up") for name in names)


def test_at_first_nothing_is_changed_and_the_base_never_is(recipe: Path) -> None:
    task = task_of(recipe)
    objective = task.objective
    base = {name: value.clone() for name, value in objective.networks.state_dict().items() if ".lora." not in name}
    layers = [module for module in objective.networks.modules() if getattr(module, "lora", None) is not None]
    batch = objective.batch(range(4))
    attached = objective.loss(batch, 0).total
    held = [layer.lora for layer in layers]
    for layer in layers:
        layer.lora = None
    assert torch.equal(objective.loss(batch, 0).total, attached)
    for layer, change in zip(layers, held, strict=True):
        layer.lora = change
    optimizer = torch.optim.AdamW([p for p in objective.networks.parameters() if p.requires_grad], lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        objective.loss(objective.batch(range(4 * step, 4 * step + 4)), step).total.backward()
        optimizer.step()
    after = objective.networks.state_dict()
    assert all(torch.equal(after[name], value) for name, value in base.items())
    assert not torch.equal(objective.loss(batch, 0).total, attached)


@pytest.mark.parametrize("override", ["lora.dora=true", 'lora.targets=["attention","text_attention","convolutions"]'])
def test_every_kind_learns_one_batch_by_heart(recipe: Path, override: str) -> None:
    objective = task_of(recipe, override, "lora.rank=8").objective
    batch = objective.batch(range(4))
    optimizer = torch.optim.AdamW(objective.module.parameters(), lr=2e-2, weight_decay=0.0)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss = objective.loss(batch, step).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("override", ["lora.dora=false", "lora.dora=true"])
def test_resuming_equals_going_on(recipe: Path, tmp_path: Path, override: str) -> None:
    whole = follow(recipe, tmp_path / "whole", override)
    records = run_recipe(load_recipe(recipe, [override]), tmp_path / "parts")
    for record in records:
        if isinstance(record, StepRecord) and record.step == 3:
            records.close()
            break
    rest = follow(recipe, tmp_path / "parts", override, resume=True)
    losses = {r.step: r.loss for r in whole if isinstance(r, StepRecord)}
    assert {r.step: r.loss for r in rest if isinstance(r, StepRecord)} == {step: losses[step] for step in (4, 5, 6)}
    files = [tmp_path / name / MODEL_FOLDER / "lora.safetensors" for name in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_a_run_of_an_earlier_version_goes_on(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that came since then have their defaults; another value of one is a change."""
    whole = follow(recipe, tmp_path / "whole")

    def of_earlier_version(read: Recipe) -> dict[str, Any]:
        facts = recipe_facts(read)
        del facts["objective"]["huber"], facts["data"]["masks"], facts["loop"]["sharded"], facts["prior"]
        return facts

    with monkeypatch.context() as patched:
        patched.setattr("toile.training.run.recipe_facts", of_earlier_version)
        records = run_recipe(load_recipe(recipe), tmp_path / "parts")
        for record in records:
            if isinstance(record, StepRecord) and record.step == 3:
                records.close()
                break
    with pytest.raises(ToileError, match=r"resuming would change objective.huber: undo"):
        follow(recipe, tmp_path / "parts", "objective.huber=0.1", resume=True)
    rest = follow(recipe, tmp_path / "parts", resume=True)
    losses = {r.step: r.loss for r in whole if isinstance(r, StepRecord)}
    assert {r.step: r.loss for r in rest if isinstance(r, StepRecord)} == {step: losses[step] for step in (4, 5, 6)}


def test_all_weights_can_be_tuned_too(recipe: Path, tiny_folder: Path, tmp_path: Path) -> None:
    text = recipe.read_text().replace('"lora"', '"fine_tune"').replace("[lora]\nrank = 2\nalpha = 4\n", "")
    recipe.write_text(text, encoding="utf-8")
    read = load_recipe(recipe)
    task = build_task(read, PictureSet(read.data))
    assert isinstance(task, FineTuneTask)
    assert {name.split(".")[0] for name, _ in task.objective.module.named_parameters()} == {"unet", "text_encoder"}
    end = follow(recipe, tmp_path / "run")[-1]
    assert isinstance(end, EndRecord) and end.reason == "done"
    tuned = LatentDiffusion.load(tmp_path / "run" / MODEL_FOLDER, "cpu", "float32")
    base = LatentDiffusion.load(tiny_folder, "cpu", "float32")
    for network in ("unet", "text_encoder", "vae"):
        pairs = zip(getattr(tuned, network).parameters(), getattr(base, network).parameters(), strict=True)
        changed = [not torch.equal(one, other.half().float()) for one, other in pairs]
        assert any(changed) == (network != "vae")
    frozen = follow(recipe, tmp_path / "frozen", "objective.train_text_encoder=false")
    assert isinstance(frozen[-1], EndRecord)
    kept = LatentDiffusion.load(tmp_path / "frozen" / MODEL_FOLDER, "cpu", "float32").text_encoder
    for one, other in zip(kept.parameters(), base.text_encoder.parameters(), strict=True):
        assert torch.equal(one, other.half().float())


def test_accumulated_parts_equal_the_whole_batch(recipe: Path, tmp_path: Path) -> None:
    whole, parts = follow(recipe, tmp_path / "whole"), follow(recipe, tmp_path / "parts", "loop.micro_batch_size=1")
    for one, other in zip(whole, parts, strict=True):
        if isinstance(one, StepRecord):
            assert isinstance(other, StepRecord) and other.loss == pytest.approx(one.loss, rel=1e-4)
        if isinstance(one, ValidationRecord):
            assert isinstance(other, ValidationRecord)
            assert other.losses["live"]["loss"] == pytest.approx(one.losses["live"]["loss"], rel=1e-3)


def test_another_base_is_a_change(recipe: Path, tiny_folder: Path, tmp_path: Path) -> None:
    follow(recipe, tmp_path / "run")
    model = LatentDiffusion.load(tiny_folder, "cpu", "float32")
    with torch.no_grad():
        model.unet.conv_in.bias.add_(1.0)
    model.save(tmp_path / "other", torch.float32)
    with pytest.raises(ToileError, match="would change base"):
        follow(recipe, tmp_path / "run", f"base={tmp_path / 'other'}", resume=True)


@pytest.mark.parametrize(
    ("override", "named"),
    [
        ("lora.rank=0", "rank 0"),
        ("lora.alpha=-1.0", "alpha"),
        ('lora.targets=["everything"]', "give one or more of attention"),
        ("lora.targets=[]", "give one or more of attention"),
    ],
)
def test_impossible_settings_are_refused(recipe: Path, override: str, named: str) -> None:
    with pytest.raises(ToileError, match=named):
        load_recipe(recipe, [override])


def test_a_group_that_the_model_lacks_is_refused(tiny_model: LatentDiffusion) -> None:
    from toile.training.lora_targets import LoRAConfig, target_layers

    assert set(target_layers(tiny_model, LoRAConfig(targets=("attention",)))) == {
        f"unet.{name}"
        for name, _ in tiny_model.unet.named_modules()
        if name.endswith((".to_q", ".to_k", ".to_v", ".to_out.0"))
    }


# ---------------------------------------------------------------------------------------------- choosing the pictures


def test_records_are_chosen_by_fields_and_words(picture_folder: Path) -> None:
    config = DataConfig(16, 16, path=picture_folder, words=("red", "belt"), trigger="zxc")
    chosen = PictureSet(config)
    assert chosen.records and all(record.captions[0] == "red belt" for record in chosen.records)
    assert chosen.trigger == "zxc"
    assert chosen.identity != PictureSet(DataConfig(16, 16, path=picture_folder)).identity
    with pytest.raises(ToileError, match=r"only\.season: no record has this field"):
        PictureSet(DataConfig(16, 16, path=picture_folder, only={"season": ("Winter",)}))
    with pytest.raises(ToileError, match="no record is left"):
        PictureSet(DataConfig(16, 16, path=picture_folder, words=("purple",)))


def test_a_list_of_records_is_kept_to(picture_folder: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.txt"
    kept.write_text("".join(f"{number}.bmp\n" for number in range(40)), encoding="utf-8")
    records = PictureSet(DataConfig(16, 16, path=picture_folder, keep=kept)).records
    assert sorted(record.key for record in records) == sorted(f"{number}.bmp" for number in range(40))
    kept.write_text("0.bmp\nother.bmp\n", encoding="utf-8")
    with pytest.raises(ToileError, match="names 1 records that are not there, such as 'other.bmp'"):
        PictureSet(DataConfig(16, 16, path=picture_folder, keep=kept))
    with pytest.raises(ToileError, match="keep"):
        PictureSet(DataConfig(16, 16, path=picture_folder, keep=tmp_path / "absent"))


def test_pictures_are_shown_as_often_as_their_folder_says(picture_folder: Path, tmp_path: Path) -> None:
    for number in range(30):
        folder = tmp_path / ("3_red belt" if number % 2 else "1_box")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.bmp").write_bytes((picture_folder / f"{number}.bmp").read_bytes())
    pictures = PictureSet(DataConfig(16, 16, path=tmp_path))
    shown = [pictures.records[position].captions[0] for position in pictures.train]
    distinct = [pictures.records[position].captions[0] for position in set(pictures.train.tolist())]
    assert shown.count("red belt") == 3 * distinct.count("red belt") > 0
    assert shown.count("box") == distinct.count("box") > 0
    assert not set(pictures.train) & set(pictures.validation)


def test_a_trigger_stands_before_every_caption(recipe: Path) -> None:
    task = task_of(recipe, "data.trigger=box")
    ids = task.objective.batch(range(8)).token_ids
    [box] = {int(row[1]) for row in task.objective.tokenizer.batch(["box"])[0]}
    assert {int(row[1]) for row in ids} == {box}
