"""Tests that Dockerfile and manual agree, and that images run without root. The file is only read, not built."""

import json
import re

import pytest

from mtsbert.commands.serve import main as serve


INSTRUCTIONS = {"FROM", "ARG", "ENV", "WORKDIR", "COPY", "RUN", "USER", "EXPOSE", "ENTRYPOINT"}


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
    assert steps[0] == ("FROM", "python:3.11-slim AS base")
    assert {word for word, _ in steps} == INSTRUCTIONS
    assert all(arguments for _, arguments in steps)


def test_every_command_that_builds_an_image_is_one_that_the_manual_shows(root, steps):
    pages = (root / "README.md", root / "docs" / "guides" / "serving.md")
    manual = "".join(page.read_text(encoding="utf-8") for page in pages)
    in_blocks = "".join(re.findall(r"```(?:bash|console|sh)\n(.*?)```", manual, re.DOTALL)).splitlines()
    shown = {line.strip() for line in in_blocks} | set(re.findall(r"`([^`\n]+)`", manual))
    assert arguments_of(steps, "RUN") != []
    assert [command for command in arguments_of(steps, "RUN") if command not in shown] == []


def test_what_is_copied_is_there_and_not_ignored(root, steps, ignored):
    sources = [source for arguments in arguments_of(steps, "COPY") for source in arguments.split()[:-1]]
    assert sources == ["requirements.txt", "."]
    assert [source for source in sources if not (root / source).exists() or source in ignored] == []


def images(steps: list[tuple[str, str]]) -> dict[str, list[tuple[str, str]]]:
    """The steps of each image that is not only a base, by its name. The last one is what is built by default."""
    parts: dict[str, list[tuple[str, str]]] = {}
    for word, arguments in steps:
        if word == "FROM":
            name = arguments.partition(" AS ")[2] or "default"
        parts.setdefault(name, []).append((word, arguments))
    base = parts.pop("base")
    assert [part[0][1].split()[0] for part in parts.values()] == ["base"] * len(parts)
    return {name: [*base, *part] for name, part in parts.items()}


def test_no_image_runs_as_root(steps):
    for image in images(steps).values():
        assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", arguments_of(image, "USER")[-1])
        last = max(place for place, (word, _) in enumerate(image) if word == "USER")
        assert [word for word, _ in image[last:] if word in ("RUN", "COPY")] == []


def test_images_run_a_command_that_the_package_installs(root, steps):
    scripts = re.search(r"\[project\.scripts\]\n(.*?)(?:\n\[|\Z)", (root / "pyproject.toml").read_text(), re.DOTALL)
    assert scripts[1].startswith("mtsbert = ")
    found = {name: json.loads(arguments_of(image, "ENTRYPOINT")[-1]) for name, image in images(steps).items()}
    assert found == {"serve": ["mtsbert", "serve", "--host", "0.0.0.0"], "default": ["mtsbert"]}
    assert list(found)[-1] == "default"


def test_the_server_listens_on_the_port_that_its_image_exposes(steps, capsys):
    with pytest.raises(SystemExit):
        serve(["--help"])
    (port,) = arguments_of(images(steps)["serve"], "EXPOSE")
    assert f"Port to listen on; 0: any. Default: {port}" in " ".join(capsys.readouterr().out.split())


def test_no_address_and_no_secret_is_named(steps):
    text = "\n".join(arguments for _, arguments in steps)
    assert "://" not in text
    addresses = set(re.findall(r"\b\d+\.\d+\.\d+\.\d+\b", text))
    assert addresses == {"0.0.0.0"}  # every address of the container
    assert not re.search(r"token|password|secret", text, re.IGNORECASE)


def test_what_git_ignores_never_reaches_the_image(root, ignored):
    of_git = [line.strip("/") for line in (root / ".gitignore").read_text().splitlines()]
    of_docker = {line.removeprefix("**/") for line in ignored}
    assert [name for name in of_git if name not in of_docker] == []
