"""Tests that Dockerfile and README agree, and that the image runs without root. The file is only read, not built."""

import json
import re

import pytest


INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "ENTRYPOINT"}


@pytest.fixture
def steps(root) -> list[tuple[str, str]]:
    """The Dockerfile as pairs of an instruction and its arguments, in order."""
    text = (root / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines if line)]


def arguments_of(steps: list[tuple[str, str]], instruction: str) -> list[str]:
    return [arguments for word, arguments in steps if word == instruction]


@pytest.fixture
def ignored(root) -> list[str]:
    lines = (root / ".dockerignore").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_every_line_is_an_instruction_with_arguments(steps):
    assert steps[0] == ("FROM", "python:3.11-slim")
    assert {word for word, _ in steps} == INSTRUCTIONS
    assert all(arguments for _, arguments in steps)


def test_every_command_that_builds_the_image_is_one_that_the_readme_shows(root, steps):
    readme = (root / "README.md").read_text(encoding="utf-8")
    in_blocks = "".join(re.findall(r"```(?:bash|console|sh)\n(.*?)```", readme, re.DOTALL)).splitlines()
    shown = {line.strip() for line in in_blocks} | set(re.findall(r"`([^`\n]+)`", readme))
    assert arguments_of(steps, "RUN") != []
    assert [command for command in arguments_of(steps, "RUN") if command not in shown] == []


def test_what_is_copied_is_there_and_not_ignored(root, steps, ignored):
    sources = [source for arguments in arguments_of(steps, "COPY") for source in arguments.split()[:-1]]
    assert sources == ["requirements.txt", "."]
    assert [source for source in sources if not (root / source).exists() or source in ignored] == []


def test_the_image_does_not_run_as_root(steps):
    user = arguments_of(steps, "USER")[-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)
    last = max(place for place, (word, _) in enumerate(steps) if word == "USER")
    assert [word for word, _ in steps[last:] if word in ("RUN", "COPY")] == []


def test_the_image_runs_a_command_that_the_package_installs(root, steps):
    (entrypoint,) = arguments_of(steps, "ENTRYPOINT")
    scripts = re.search(r"\[project\.scripts\]\n(.*?)(?:\n\[|\Z)", (root / "pyproject.toml").read_text(), re.DOTALL)
    assert json.loads(entrypoint) == ["mtsbert"]
    assert scripts[1].startswith("mtsbert = ")


def test_no_address_and_no_secret_is_named(steps):
    text = "\n".join(arguments for _, arguments in steps)
    assert "://" not in text
    assert not re.search(r"token|password|secret|\b\d+\.\d+\.\d+\.\d+\b", text, re.IGNORECASE)


def test_what_git_ignores_never_reaches_the_image(root, ignored):
    of_git = [line.strip("/") for line in (root / ".gitignore").read_text().splitlines()]
    of_docker = {line.removeprefix("**/") for line in ignored}
    assert [name for name in of_git if name not in of_docker] == []
