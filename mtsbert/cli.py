"""The `mtsbert` command, which runs all programs of the project. In a clone: `python -m mtsbert`."""

import argparse
import gc
import importlib
import sys
from collections.abc import Callable
from types import ModuleType

from mtsbert.preparation import data_prep
from mtsbert.threads import set_up_threads


set_up_threads()  # the programs, which import torch, are imported later

COMMANDS = {  # command → description in the help
    "train": "train, evaluate and save a model as a recipe says",
    "distill": "make a smaller model from a checkpoint, which learns its answers",
    "prepare": "label texts with spaCy and make a dataset of them",
    "report": "say what is in a prepared dataset, and how far its labels can be trusted",
    "predict": "answer for every text of a file or folder",
    "evaluate-entities": "compare found entities with those that people marked",
    "evaluate-embedding": "measure a sentence embedding by scored pairs and by retrieval",
    "relabel": "leave open the entities that a model which learned them disagrees with",
    "annotate": "choose the texts that people should label, with the model's answers to correct",
    "audit": "list the rows whose label is most likely wrong",
    "tune-thresholds": "set how sure a checkpoint must be to answer",
    "export": "write a checkpoint as ONNX or OpenVINO, or its encoder alone",
    "edit": "add, drop or rename the tasks and labels of a checkpoint",
    "study": "compare what freezing costs and brings on your data",
    "serve": "answer over HTTP, in batches across requests",
    "demo": "try a model in the browser",
}
IN_PACKAGES = {"evaluate-entities": "evaluate.entities", "evaluate-embedding": "evaluate.embedding"}
OF_DATA_PREP = {"prepare": "__main__", "report": "report.document"}  # command → its module there


def main(argv: list[str] | None = None) -> None:
    """Runs the named command with the arguments after it. Invalid input exits with a one-line error and status 1."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog="mtsbert",
        description="One encoder for embeddings, labels, entities and pairs of texts.",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", choices=COMMANDS, help="see 'mtsbert COMMAND --help' for its options", metavar="COMMAND"
    )
    arguments = sys.argv[1:] if argv is None else argv
    command = parser.parse_args(arguments[:1]).command
    run(lambda argv, prog: _module_of(command).main(argv, prog=prog), arguments[1:], prog=f"mtsbert {command}")


def run(program: Callable, argv: list[str], *, prog: str) -> None:
    """Calls the `main` of a program. A `ValueError` ends it with one line and status 1."""
    try:
        program(argv, prog=prog)
    except ValueError as error:
        sys.exit(f"Error: {error}")


def _module_of(command: str) -> ModuleType:
    gc.disable()  # the libraries that are imported make many objects and little garbage
    try:
        if command in OF_DATA_PREP:
            return data_prep(OF_DATA_PREP[command])
        return importlib.import_module(f"mtsbert.commands.{IN_PACKAGES.get(command, command.replace('-', '_'))}")
    finally:
        gc.freeze()  # what they hold is never searched for garbage
        gc.enable()
