"""The command `mtsbert`: every program of the project under one name; from a clone `python -m mtsbert`."""

import argparse
import importlib
import sys

from mtsbert.preparation import data_prep


COMMANDS = {  # what the help says of each
    "train": "train, evaluate and save a model as a recipe says",
    "prepare": "label texts with spaCy and make a dataset of them",
    "report": "say what is in a prepared dataset, and how far its labels can be trusted",
    "predict": "answer for every text of a file or folder",
    "evaluate-entities": "compare found entities with those that people marked",
    "relabel": "leave open the entities that a model which learned them disagrees with",
    "audit": "list the rows whose label is most likely wrong",
    "export": "write a checkpoint as ONNX",
    "study": "compare what freezing costs and brings on your data",
    "demo": "try a model in the browser",
}
OF_DATA_PREP = {"prepare": "__main__", "report": "report.document"}  # command → its module there


def main(argv: list[str] | None = None) -> None:
    """Runs a command with the arguments that follow its name. Wrong input ends with one line and exit status 1."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="mtsbert",
        description="One encoder for embeddings, labels, entities and pairs of texts.",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}  {text}" for name, text in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="'mtsbert COMMAND --help' says more", metavar="COMMAND")
    arguments = sys.argv[1:] if argv is None else argv
    command = parser.parse_args(arguments[:1]).command
    try:
        if command in OF_DATA_PREP:
            module = data_prep(OF_DATA_PREP[command])
        else:
            module = importlib.import_module(f"mtsbert.commands.{command.replace('-', '_')}")
        module.main(arguments[1:], prog=f"mtsbert {command}")
    except ValueError as error:
        sys.exit(f"Error: {error}")
