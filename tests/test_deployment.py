"""The image and the service: what they copy exists, and what they start is a command that toile has."""

from __future__ import annotations

import configparser
import fnmatch
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from toile.cli.main import build_app
from toile.user_folders import user_folder

ROOT = Path(__file__).parents[1]
UNIT = ROOT / "deploy" / "toile.service"


def instructions() -> list[tuple[str, str]]:
    """Those of the Dockerfile, by name."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    split = [line.split(None, 1) for line in lines.splitlines() if line.strip()]
    return [(name, rest) for name, rest in split]


def of(name: str) -> list[str]:
    return [rest for known, rest in instructions() if known == name]


def service() -> dict[str, list[str]]:
    """Settings of the service, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text(encoding="utf-8").splitlines():
        if not line.startswith(("#", "[")) and "=" in line:
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def served(arguments: list[str]) -> dict[str, object]:
    """The flags of a command line of `toile serve`."""
    command, bound, _ = build_app().parse_args(arguments, exit_on_error=False, print_error=False)
    assert command.__name__ == "serve"
    return dict(bound.arguments)


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path from the build; the last line that matches decides."""
    answer = False
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        pattern = line.lstrip("!")
        parts = Path(path).parts
        heads = ["/".join(parts[: end + 1]) for end in range(len(parts))]
        tails = [part for part in parts] if pattern.startswith("**/") else []
        matches = any(fnmatch.fnmatchcase(head, pattern) for head in heads)
        if matches or any(fnmatch.fnmatchcase(tail, pattern[3:]) for tail in tails):
            answer = not line.startswith("!")
    return answer


def copied() -> Iterator[str]:
    for line in of("COPY"):
        words = shlex.split(line)
        if not words[0].startswith("--from="):
            yield from words[:-1]


def test_all_that_the_image_copies_is_there_and_sent_to_its_builder() -> None:
    sources = list(copied())
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "src"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists() and not ignored(source), source
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [project["readme"], *project["license-files"]]
    assert set(needed) <= set(sources)
    for path in (".git/config", "studio/studio.sqlite3", "runs/a/model", "tests/conftest.py", ".venv/bin/python"):
        assert ignored(path), path
    assert ignored("src/toile/__pycache__/a.pyc") and not ignored("src/toile/assets/fashion/toile.json")
    stages = [line for line in of("COPY") if line.startswith("--from=")]
    names = re.findall(r" AS (\w+)", "\n".join(of("FROM")))
    assert stages and all(line.split("=")[1].split()[0] in names for line in stages)


def test_what_the_image_starts_is_understood() -> None:
    [entry], [command] = of("ENTRYPOINT"), of("CMD")
    assert json.loads(entry) == ["toile"]
    flags = served(json.loads(command))
    [port] = of("EXPOSE")
    assert (flags["host"], str(flags["port"])) == ("0.0.0.0", port)
    [volumes] = of("VOLUME")
    assert str(flags["out"]) in json.loads(volumes)
    [user] = of("USER")
    assert user == "toile" and any(f"-o {user}" in line and "/models" in line for line in of("RUN"))
    [health] = of("HEALTHCHECK")
    code = json.loads(health.partition("CMD ")[2])[2]
    compile(code, "HEALTHCHECK", "exec")
    assert f":{port}/healthz" in code


def test_the_image_and_the_service_name_folders_that_toile_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    image = dict(re.findall(r"\b(TOILE_\w+)=(\S+)", "\n".join(of("ENV"))))
    unit = dict(re.findall(r"\b(TOILE_\w+)=(\S+)", " ".join(service()["Environment"])))
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "src" / "toile").rglob("*.py"))
    for name in {**image, **unit}:
        assert f'"{name}"' in sources, name
    for name, folder in image.items():
        monkeypatch.setenv(name, folder)
        assert user_folder(name, "x").is_relative_to("/models")
    assert all(folder.startswith(("%S/toile", "%C/toile")) for folder in unit.values())


def test_requirements_of_the_image_are_those_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    command = [sys.executable, "deploy/requirements.py", "studio"]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines == [*project["dependencies"], *project["optional-dependencies"]["studio"]]
    known = project["optional-dependencies"]
    assert all(extra in known for line in of("ARG") if line.startswith("EXTRAS=") for extra in line[7:].split())


def test_what_the_service_starts_is_understood_and_may_take_its_time_to_end() -> None:
    settings = service()
    [command] = settings["ExecStart"]
    words = shlex.split(command)
    assert Path(words[0]).is_absolute() and Path(words[0]).name == "toile"
    flags = served(words[1:])
    assert str(flags["out"]).startswith(f"%S/{settings['StateDirectory'][0]}/")
    [stop] = settings["TimeoutStopSec"]
    assert float(stop) > float(str(flags["drain"])) + 10
    assert settings["KillSignal"] == ["SIGTERM"] and settings["KillMode"] == ["mixed"]
    assert settings["Restart"] == ["on-failure"] and settings["RestartPreventExitStatus"] == ["2"]
    assert "TOILE_TOKEN" not in command and settings["EnvironmentFile"] == ["/etc/toile/toile.env"]
    parsed = configparser.RawConfigParser(strict=False)
    parsed.read(UNIT, encoding="utf-8")
    assert parsed.sections() == ["Unit", "Service", "Install"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    program = tmp_path / "toile"
    program.touch(mode=0o755)
    text = UNIT.read_text(encoding="utf-8").replace(shlex.split(service()["ExecStart"][0])[0], str(program))
    (tmp_path / "toile.service").write_text(text, encoding="utf-8")
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    command = ["systemd-analyze", "verify", str(tmp_path / "toile.service")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    told = [line for line in done.stderr.splitlines() if "toile" in line]
    assert done.returncode == 0 and not told, done.stderr
