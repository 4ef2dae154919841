"""Parses a recipe file and the command line into arguments. Flags override the recipe; unknown keys are errors."""

import argparse
import difflib
import json
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import yaml
from transformers import HfArgumentParser

from mtsbert.arguments import ADAM, MTLTrainingArguments
from mtsbert.input_arguments import DataArguments, ModelArguments
from mtsbert.settings import check_numbers, unique_keys


ARGUMENTS = (ModelArguments, DataArguments, MTLTrainingArguments)
NOT_IN_RECIPES = ("help", "config", "search")
MAX_VALUES = 100_000  # in a recipe, with YAML aliases expanded

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
    (optim,) = [action for action in parser._actions if action.dest == "optim"]
    optim.choices = [ADAM, *optim.choices]
    parser.add_argument("--config", help="Recipe: a YAML file whose keys are the flags below.")
    parser.add_argument(
        "--search",
        metavar="SPACE",
        help="Instead of a single run, search for the best values of flags with optuna. A YAML file with the search "
        "space, see `training/search.py`.",
    )
    return parser


class _ManualFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows defaults, except None and False."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, argparse.SUPPRESS):
            return action.help
        return super()._get_help_string(action)


def parse_arguments(
    argv: list[str] | None = None, prog: str = "run_mtl.py"
) -> tuple[ModelArguments, DataArguments, MTLTrainingArguments]:
    """Parses `argv` (default: `sys.argv[1:]`). Raises `ValueError` for an invalid recipe or value."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser(prog)
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config")
    recipe, flags = finder.parse_known_args(argv)
    if recipe.config is not None:
        flags = recipe_flags(Path(recipe.config), parser) + flags
    return build_arguments(parser, flags)


def names_set_by(flags: list[str]) -> set[str]:
    """The names of the arguments that flags set, however these are written: `--lora-r=8`, `--no_lora_merge`."""
    names = {option: action.dest for action in build_parser()._actions for option in action.option_strings}
    return {names[option] for flag in flags if (option := flag.partition("=")[0]) in names}


def build_arguments(
    parser: HfArgumentParser, flags: list[str]
) -> tuple[ModelArguments, DataArguments, MTLTrainingArguments]:
    """Parses flags into arguments. Raises `ValueError` for values that are invalid alone or in combination."""
    try:
        model_args, data_args, training_args, _ = parser.parse_args_into_dataclasses(flags, look_for_args_file=False)
        check_numbers(vars(model_args) | vars(data_args) | vars(training_args))
    except ValueError as error:
        raise ValueError(str(error)) from None
    except (TypeError, KeyError, AttributeError, OverflowError, OSError, ImportError) as error:  # from transformers
        raise ValueError(f"These flags cannot be used ({type(error).__name__}: {error}): {flags}") from error
    return model_args, data_args, training_args


class _RecipeLoader(yaml.SafeLoader):
    """Loads only strings, numbers, booleans, null, lists and mappings, and rejects duplicate keys."""

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
# A date such as 2024-01-31 may be a name, so it stays a string.
_RecipeLoader.add_constructor("tag:yaml.org,2002:timestamp", yaml.SafeLoader.construct_yaml_str)


def recipe_flags(path: Path, parser: argparse.ArgumentParser) -> list[str]:
    """Turns a recipe file into command-line flags, so that both are converted and checked by the same code."""
    return read_yaml(path, "Recipe", lambda recipe: flags_of(recipe, parser))


def read_yaml(path: Path, what: str, use: Callable[[dict], Any]) -> Any:
    """
    Reads a YAML file that contains a mapping, and returns `use(mapping)`.

    Args:
        path (`Path`): The file.
        what (`str`): What error messages call the file, such as `"Recipe"`.
        use (`Callable[[dict], Any]`): Called with the mapping. A `ValueError` that it raises is extended by the path.

    Raises:
        `ValueError`: if the file cannot be read, is not YAML, does not contain a mapping, or `use` rejects it.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{what} {path} cannot be read: {error}.") from None
    try:
        mapping = yaml.load(text, Loader=_RecipeLoader)
        if not isinstance(mapping, dict):
            raise ValueError(f"it must be a mapping of flags to values; got {type(mapping).__name__}.")
        _check_size(mapping)
        return use(mapping)
    except yaml.YAMLError as error:
        raise ValueError(f"{what} {path} is not YAML: {error}") from None
    except RecursionError:
        raise ValueError(f"{what} {path} is nested too deeply.") from None
    except ValueError as error:
        raise ValueError(f"{what} {path}: {error}") from None


def flags_of(settings: dict, parser: argparse.ArgumentParser) -> list[str]:
    """Turns settings into command-line flags. Raises `ValueError` for an unknown setting or an invalid value."""
    actions = {action.dest: action for action in parser._actions if action.dest not in NOT_IN_RECIPES}
    flags = [flag for key, value in settings.items() for flag in _flags_of(key, value, actions)]
    _check_values(flags, parser)
    return flags


def _check_size(recipe: dict) -> None:
    """Raises `ValueError` if YAML aliases make a recipe huge or infinite."""
    waiting: list[Any] = [recipe]
    for _ in range(MAX_VALUES):
        if not waiting:
            return
        value = waiting.pop()
        if isinstance(value, list | dict):
            waiting.extend(value.values() if isinstance(value, dict) else value)
    raise ValueError(f"it has more than {MAX_VALUES:,} values. Does an alias contain itself?")


def _flags_of(key: Any, value: Any, actions: dict[str, argparse.Action]) -> list[str]:
    """Turns one key of a recipe into flags."""
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
    if value == "--":  # argparse would end the flags here
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
    """The names of the flags whose values may be mappings."""
    hints = [get_type_hints(arguments) for arguments in ARGUMENTS]  # the parser turns the fields' types into str
    return {name for hint in hints for name, kind in hint.items() if "dict" in str(kind)}


def _check_values(flags: list[str], parser: argparse.ArgumentParser) -> None:
    """Raises `ValueError` for errors where argparse would print the usage and exit."""
    parser.exit_on_error = False
    try:
        parser.parse_known_args(flags)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None
    finally:
        parser.exit_on_error = True
