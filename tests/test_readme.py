"""What the documents say to type works, what they name exists, and project files speak only of the project."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cyclopts import App
from packaging.requirements import Requirement

import toile
from toile.cli.main import build_app, run
from toile.latent_diffusion import LatentDiffusion
from toile.lora import lora_targets
from toile.nn.lora import LowRank
from toile.training.recipes import load_recipe
from toile.training.sweep_recipe import is_sweep, load_sweep
from toile.weights.lora_file import write_lora

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))
FOLDERS = (".ci", "benchmarks", "deploy", "docs", "recipes", "src", "tests")
TEXT_SUFFIXES = {".md", ".py", ".toml", ".txt", ".json", ".yml", ".yaml", ".service", ""}
# Written so that no pattern matches its own text here.
FORBIDDEN = {
    "a path of one machine": r"(?<![\w.])/(?:work|root|home|opt)/",
    "the number of an issue": r"(?i)\bissue (?:#|no\. ?)?\d",
    "a package registry": r"(?i)\b(?:pypi|pythonhosted|download\.pytorch|huggingface)\.(?:org|co)\b",
    "how the text came about": r"(?i)\b(?:(?:this|next|last|another) session|(?:sub)?[a]gents?\b|co[-]authored)",
}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def code_blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def toile_commands(text: str) -> list[list[str]]:
    """The arguments of every `toile` command line in shell blocks, and in comments and rules of other files."""
    lines = [line for block in code_blocks(text, "sh") for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"^(?:# |\t\$\(BIN\)/)(?=toile )(.*)$", text, flags=re.MULTILINE)
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[1:] for line in words if line[:1] == ["toile"]]


def written_commands() -> Iterator[tuple[str, list[str]]]:
    for path in [*DOCUMENTS, *RECIPES, ROOT / "Makefile"]:
        for arguments in toile_commands(path.read_text(encoding="utf-8")):
            yield name_of(path), arguments


def project_files() -> list[Path]:
    files = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        files += [path for path in (ROOT / folder).rglob("*") if path.is_file()]
    generated = {"__pycache__", "toile.egg-info", "tokenizer"}  # a vocabulary may hold any word
    return [path for path in files if path.suffix in TEXT_SUFFIXES and not generated & set(path.parts)]


@pytest.fixture
def app() -> App:
    return build_app()


@pytest.mark.parametrize(("file", "arguments"), list(written_commands()))
def test_every_written_command_is_understood(app: App, file: str, arguments: list[str]) -> None:
    command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
    if command.__name__ == "train":
        load_recipe(ROOT / bound.arguments["recipe"], bound.arguments.get("overrides", ()))
    elif command.__name__ == "sweep":
        load_sweep(ROOT / bound.arguments["recipe"])


def test_readme_shows_every_command(app: App) -> None:
    shown = {arguments[0] for arguments in toile_commands(README)}
    assert shown == {name for name in app if not name.startswith("-")}


def test_readme_commands_run_in_order(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("prompts.txt").write_text("white t-shirt\nred dress\n", encoding="utf-8")
    write_a_lora(Path("runs/monet/model/lora.safetensors"), tiny_folder)
    # Those need data: recipes are read above, and tests/evaluation/test_evaluate.py runs evaluations.
    # A server does not end by itself: tests/web/test_server.py starts and stops one.
    left_out = ("train", "sweep", "evaluate", "compare", "serve", "studio")
    commands = [arguments for arguments in toile_commands(README) if arguments[0] not in left_out]
    for verb, *rest in commands:
        if verb in ("generate", "weigh", "blend", "grid", "lora"):
            rest += ["--device", "cpu", "--model", str(tiny_folder)]
        elif verb == "convert":
            rest[0] = str(tiny_folder)
        elif verb == "describe":
            rest = [str(tiny_folder)]
        elif verb == "rate":
            rest[:2] = [str(tiny_folder), f"{tiny_folder} steps=1"]
            rest += ["--device", "cpu"]
        elif verb == "card":
            rest[0] = str(tiny_folder)
            rest += ["--no-pictures"]
        if "--quality" in rest:  # which the bundled model names, not this one
            first = rest.index("--quality")
            del rest[first : first + 2]
        if rest.count("--model") > 1:
            first = rest.index("--model")
            del rest[first : first + 2]
        assert run([verb, *rest]) == 0, (verb, rest)
    assert Path("pictures/sheet.png").is_file()


def write_a_lora(path: Path, model: Path) -> None:
    """What training it would leave behind."""
    path.parent.mkdir(parents=True)
    targets = lora_targets(LatentDiffusion.load(model, "cpu", "float32"))
    changes = {
        name: LowRank(torch.ones(1, *shape[1:]), torch.ones(shape[0], 1), 1.0)
        for name, shape in targets.items()
        if "attn" in name
    }
    write_lora(path, changes, "kohya", {})


def test_readme_python_runs(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    [example] = code_blocks(README, "python")
    assert '"fashion"' in example
    exec(compile(example.replace('"fashion"', repr(str(tiny_folder))), "README.md", "exec"), {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == [f"picture-{number}.png" for number in range(4)]
    assert toile.read_recipe(tmp_path / names[3]).prompt == "brown leather belt"


def test_readme_benchmark_flags_exist() -> None:
    for line in re.findall(r"python (benchmarks/\S+\.py .*)", README):
        script, *arguments = shlex.split(line, comments=True)
        calls = [node for node in ast.walk(ast.parse((ROOT / script).read_text())) if isinstance(node, ast.Call)]
        known = {value.value for call in calls for value in call.args if isinstance(value, ast.Constant)}
        assert {word for word in arguments if word.startswith("--")} <= known, script


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_what_documents_name_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    linked = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    named = re.findall(r"`((?:src|recipes|benchmarks|tests|docs)/[\w./-]*)`", text)
    inside = re.findall(r"`((?:cli|data|diffusion|models|training|generation|evaluation|weights|nn)/[\w./]+)`", text)
    inside = [name for name in inside if "NAME" not in name]
    missing = [link for link in linked if not (path.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    missing += [name for name in inside if not (ROOT / "src" / "toile" / name).exists()]
    assert not missing


def test_layout_table_is_complete() -> None:
    rows = set(re.findall(r"^\| `([\w/]+)/` \|", README, flags=re.MULTILINE))
    package = [path for path in (ROOT / "src" / "toile").iterdir() if path.is_dir() and path.name != "__pycache__"]
    top = [ROOT / name for name in FOLDERS if name not in (".ci", "src")]
    assert rows == {name_of(path) for path in [*package, *top]}


def test_contributing_names_every_part_of_the_package() -> None:
    layers = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for path in sorted((ROOT / "src" / "toile").iterdir()):
        if path.name in ("__init__.py", "__pycache__", "py.typed", "assets"):
            continue
        assert f"`{path.name}{'/' if path.is_dir() else ''}`" in layers, path.name


def test_readme_follows_every_recipe_and_recipes_say_their_command() -> None:
    verbs = {name_of(path): "sweep" if is_sweep(path) else "train" for path in RECIPES}
    shown = [arguments[:2] for arguments in toile_commands(README) if arguments[0] in ("train", "sweep")]
    assert {path: verb for verb, path in shown} == verbs
    assert all(verbs[path] == verb for verb, path in shown)
    for path in RECIPES:
        commands = toile_commands(path.read_text(encoding="utf-8"))
        assert commands and commands[0][:2] == [verbs[name_of(path)], name_of(path)], path


def test_versions_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{toile.__version__}]" in changelog
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = dict(line.lower().replace("_", "-").split("==") for line in lines if not line.startswith("#"))
    extras = [text for extra in project["optional-dependencies"].values() for text in extra]
    for requirement in map(Requirement, [*project["dependencies"], *extras]):
        version = pinned[requirement.name.lower().replace("_", "-")]
        assert "+" not in version and requirement.specifier.contains(version), requirement


@pytest.mark.parametrize("what", FORBIDDEN)
def test_project_files_speak_of_the_project_only(what: str) -> None:
    found = []
    for path in project_files():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            if re.search(FORBIDDEN[what], line):
                found.append(f"{name_of(path)}:{number}: {line.strip()[:100]}")
    assert not found
