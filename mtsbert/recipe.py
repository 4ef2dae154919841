"""A recipe file and the command line → arguments. Flags win; unknown keys are errors."""

import argparse
import difflib
import json
import sys
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser

from mtsbert.arguments import DataArguments, ModelArguments, MTLTrainingArguments
from mtsbert.settings import check_numbers, unique_keys


ARGUMENTS = (ModelArguments, DataArguments, MTLTrainingArguments)
MAX_VALUES = 100_000  # in a recipe, where what an alias stands for counts each time

DESCRIPTION = """Trains one encoder on several tasks, evaluates it, and saves a checkpoint that opens anywhere.

Everything can stand in a recipe (--config recipe.yaml) under the name of its flag; flags win over the recipe.
"""


def build_parser(prog: str = "run_mtl.py") -> HfArgumentParser:
    parser = HfArgumentParser(
        ARGUMENTS,
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
    return build_arguments(parser, flags)


def build_arguments(
    parser: HfArgumentParser, flags: list[str]
) -> tuple[ModelArguments, DataArguments, MTLTrainingArguments]:
    """Flags → arguments. Raises `ValueError` for values that cannot be, alone or together."""
    try:
        model_args, data_args, training_args, _ = parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
        check_numbers(vars(model_args) | vars(data_args) | vars(training_args))
    except ValueError as error:
        raise ValueError(str(error)) from None
    except (TypeError, KeyError, AttributeError, OverflowError, OSError) as error:  # of transformers' own checks
        raise ValueError(f"These flags cannot be used ({type(error).__name__}: {error}): {flags}") from error
    return model_args, data_args, training_args


class _RecipeLoader(yaml.SafeLoader):
    """YAML of texts, numbers, truth values, lists and mappings alone, and without a key that stands twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        pairs = self.construct_pairs(node, deep=True)
        for (key_node, _), (key, _) in zip(node.value, pairs, strict=True):
            if isinstance(key, list | dict):
                raise yaml.constructor.ConstructorError(None, None, "a key is no list or mapping", key_node.start_mark)
        return unique_keys(pairs)


_TYPES = ("null", "bool", "int", "float", "str", "seq", "map")
_RecipeLoader.yaml_constructors = {
    tag: yaml.SafeLoader.yaml_constructors[tag] for tag in (None, *(f"tag:yaml.org,2002:{name}" for name in _TYPES))
}
_RecipeLoader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)  # 2024-01-31: a name


def recipe_flags(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """The recipe as command-line flags, so that both are converted and checked by the same code."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"Recipe {path} cannot be read: {error}.") from None
    try:
        recipe = yaml.load(text, Loader=_RecipeLoader)
        if not isinstance(recipe, dict):
            raise ValueError(f"it must be a mapping of flags to values; got {type(recipe).__name__}.")
        _check_size(recipe)
        actions = {action.dest: action for action in parser._actions if action.dest not in ("help", "config")}
        flags = [flag for key, value in recipe.items() for flag in _flags_of(key, value, actions)]
        _check_values(flags, parser)
    except yaml.YAMLError as error:
        raise ValueError(f"Recipe {path} is not YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"Recipe {path} is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"Recipe {path}: {error}") from None
    return flags


def _check_size(recipe: dict) -> None:
    """Raises `ValueError` for a recipe that a few aliases make endless."""
    waiting: list[Any] = [recipe]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, list | dict):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    raise ValueError(f"it has more than {MAX_VALUES:,} values. Does an alias contain itself?")


def _flags_of(key: Any, value: Any, actions: dict[str, argparse.Action]) -> list[str]:
    """One key of a recipe as flags."""
    if key not in actions:
        close = difflib.get_close_matches(str(key)[:100], sorted(actions), n=1)
        hint = f" Did you mean {close[0]!r}?" if close else " `run_mtl.py --help` lists all keys."
        raise ValueError(f"it has an unknown key {key!r}.{hint}")
    if value is None or value == []:
        return []
    if isinstance(value, dict):
        if key not in _mapping_keys():
            raise ValueError(f"{key!r} must not be a mapping; got {value!r}.")
        return [f"--{key}={json.dumps(value)}"]
    if value == "--":  # argparse takes it for the end of the flags
        raise ValueError(f"{key!r} must not be '--'.")
    if not isinstance(value, list):
        return [f"--{key}={value}"]
    if actions[key].nargs not in ("+", "*"):
        wanted = "a mapping" if key in _mapping_keys() else "one value"
        raise ValueError(f"{key!r} must be {wanted}; got {value!r}.")
    if wrong := [item for item in value if isinstance(item, list | dict | None) or str(item).startswith("-")]:
        raise ValueError(f"{key!r} is a list of words that begin with no '-'; got {wrong[0]!r} among them.")
    return [f"--{key}", *map(str, value)]


@cache
def _mapping_keys() -> set[str]:
    """The flags whose values may be mappings."""
    hints = [get_type_hints(arguments) for arguments in ARGUMENTS]  # the fields' own types become str in the parser
    return {name for hint in hints for name, kind in hint.items() if "dict" in str(kind)}


def _check_values(flags: list[str], parser: argparse.ArgumentParser) -> None:
    """Raises `ValueError` where argparse would print the usage and end the process."""
    parser.exit_on_error = False
    try:
        parser.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    finally:
        parser.exit_on_error = True
