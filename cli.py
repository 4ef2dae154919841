"""The command `mtsbert`: every program of the project under one name, once it is installed."""

import argparse
import importlib
import sys


# What a word of the command line runs: a module of this package, and what the help says of it.
COMMANDS = {
    "train": ("run_mtl", "train, evaluate and save a model as a recipe says"),
    "prepare": ("data_prep.__main__", "label texts with spaCy and make a dataset of them"),
    "report": (
        "data_prep.report.document",
        "say what is in a prepared dataset, and how far its labels can be trusted",
    ),
    "predict": ("mtl.predict", "answer for every text of a file or folder"),
    "evaluate-entities": ("mtl.evaluate_entities", "compare found entities with those that people marked"),
    "relabel": ("mtl.relabel", "leave open the entities that a model which learned them disagrees with"),
    "audit": ("mtl.audit", "list the rows whose label is most likely wrong"),
    "export": ("mtl.export", "write a checkpoint as ONNX"),
    "study": ("mtl.study", "compare what freezing costs and brings on your data"),
    "demo": ("mtl.demo", "try a model in the browser"),
}


def main(argv: list[str] | None = None) -> None:
    """Runs a command with the arguments that follow its name. Wrong input ends with one line and exit status 1."""
    width = max(map(len, COMMANDS))
    parser = argparse.ArgumentParser(
        prog="mtsbert",
        description="One encoder for embeddings, labels, entities and pairs of texts.",
        epilog="commands:\n" + "\n".join(f"  {name:{width}}  {text}" for name, (_, text) in COMMANDS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, help="'mtsbert COMMAND --help' says more", metavar="COMMAND")
    arguments = sys.argv[1:] if argv is None else argv
    command = parser.parse_args(arguments[:1]).command
    module, _ = COMMANDS[command]
    try:
        importlib.import_module(f".{module}", __package__).main(arguments[1:], prog=f"mtsbert {command}")
    except ValueError as error:
        sys.exit(f"Error: {error}")
