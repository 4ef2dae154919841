"""Fills in what would go stale if it were written by hand: every flag with its help text, and every command's help."""

import contextlib
import dataclasses
import io
import os
import re
import sys
from pathlib import Path
from unittest import mock


ROOT = Path(__file__).parent.parent


def on_config(config):
    """mkdocs calls this first."""
    sys.path.insert(0, str(ROOT))
    return config


def on_page_markdown(markdown: str, **kwargs) -> str:
    """mkdocs calls this for every page."""
    markdown = markdown.replace("<!-- flags -->", flags() if "<!-- flags -->" in markdown else "")
    return markdown.replace("<!-- commands -->", commands() if "<!-- commands -->" in markdown else "")


def flags() -> str:
    """A table for each group of arguments, of those that transformers does not have or has with another default."""
    from transformers import TrainingArguments

    from mtsbert.arguments import MTLTrainingArguments
    from mtsbert.input_arguments import DataArguments, ModelArguments

    inherited = {setting.name: setting for setting in dataclasses.fields(TrainingArguments)}
    parts = []
    for arguments in (ModelArguments, DataArguments, MTLTrainingArguments):
        lines = ["| flag | default | what it does |", "|---|---|---|"]
        for setting in dataclasses.fields(arguments):
            if arguments is MTLTrainingArguments and inherited.get(setting.name) is not None:
                if setting.default == inherited[setting.name].default:
                    continue
            if "help" not in setting.metadata:
                raise ValueError(f"{setting.name} has no help text.")
            default = "" if setting.default in (None, dataclasses.MISSING) else f"`{setting.default}`"
            lines.append(f"| `--{setting.name}` | {default} | {escape(setting.metadata['help'])} |")
        parts.append(f"## {arguments.__name__}\n\n{arguments.__doc__}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def escape(text: str) -> str:
    return re.sub(r"([|<>])", r"\\\1", " ".join(text.split()))


def commands() -> str:
    """What `mtsbert COMMAND --help` prints, for all commands but `train`, whose flags have a page of their own."""
    from mtsbert.cli import COMMANDS

    parts = []
    for name, summary in COMMANDS.items():
        if name == "train":
            continue
        parts.append(f"## {name}\n\n{summary[0].upper()}{summary[1:]}.\n\n```text\n{help_of(name)}\n```")
    return "\n\n".join(parts)


def help_of(command: str) -> str:
    from mtsbert.cli import main

    output = io.StringIO()
    with mock.patch.dict(os.environ, COLUMNS="100"), contextlib.redirect_stdout(output):
        with contextlib.suppress(SystemExit):  # argparse ends the program when it has printed the help
            main([command, "--help"])
    return output.getvalue().strip()
