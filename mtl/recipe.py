"""A recipe file and the command line → arguments. Flags win; unknown keys are errors."""

import argparse
import difflib
import json
import sys
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from .arguments import DataArguments, ModelArguments, MTLTrainingArguments, unique_keys


DESCRIPTION = """Trains one encoder on several tasks, evaluates it, and saves a checkpoint that opens anywhere.

Everything can stand in a recipe (--config recipe.yaml) under the name of its flag; flags win over the recipe.
"""


def build_parser(prog: str = "run_mtl.py") -> HfArgumentParser:
    parser = HfArgumentParser(
        (ModelArguments, DataArguments, MTLTrainingArguments),
        prog=prog,
        description=DESCRIPTION,
        allow_abbrev=False,
        formatter_class=_ManualFormatter,
    )
    parser.add_argument("--config", help="Recipe: a YAML file whose keys are the flags below.")
    return parser


class _ManualFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except where there is none to speak of."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def parse_arguments(
    argv: list[str] | None = None, prog: str = "run_mtl.py"
) -> tuple[ModelArguments, DataArguments, MTLTrainingArguments]:
    """Reads `argv` (the command line by default). Raises `ValueError` for a recipe or a value that cannot be used."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(prog)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    recipe, flags = finder.parse_known_args(argv)
    if recipe.config is not None:
        flags = recipe_flags(Path(recipe.config), parser) + flags
    model_args, data_args, training_args, _ = parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
    return model_args, data_args, training_args


class _RecipeLoader(yaml.SafeLoader):
    """YAML without code, and without a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        return unique_keys(self.construct_pairs(node, deep=True))


def recipe_flags(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The recipe as command-line flags, so that both are converted and checked by the same code."""
    try:
        recipe = yaml.load(path.read_text(encoding="utf-8"), Loader=_RecipeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Recipe {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        raise ValueError(f"Recipe {path} is not YAML: {error}") from None
    if not isinstance(recipe, dict):
        raise ValueError(f"Recipe {path} must be a mapping of flags to values; got {type(recipe).__name__}.")
    known = {action.dest for action in parser._actions} - {"help", "config"}
    flags = []
    for key, value in recipe.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), sorted(known), n=1)
            hint = f" Did you mean {close[0]!r}?" if close else " `run_mtl.py --help` lists all keys."
            raise ValueError(f"Recipe {path} has an unknown key {key!r}.{hint}")
        if value is None:
            continue
        if isinstance(value, list):
            flags += [f"--{key}", *map(str, value)]
        else:
            flags.append(f"--{key}={json.dumps(value) if isinstance(value, dict) else value}")
    return flags
