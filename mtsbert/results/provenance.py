"""Describes where the model and the data of a run come from, for publication: no local paths, nothing secret."""

import logging
import re
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml
from datasets import Dataset
from huggingface_hub import DatasetCard
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.features import DATASET, num_labelled_rows
from mtsbert.data.loading import TaskData
from mtsbert.data.sources import SPLITS
from mtsbert.input_arguments import DataArguments, ModelArguments
from mtsbert.network.starting_point import PACKAGE_PREFIX, name_of
from mtsbert.results.tables import plain


SILVER_LABELS = "silver-labels"  # tag of datasets that `data_prep` built
SILVER_COLUMNS = ("entities", "ner_tags")  # the machine-labelled columns of these datasets
MOST_LETTERS = 1_500  # maximum number of characters quoted from a dataset card
# Settings that describe the machine, that may be secret, or that `TrainingArguments` sets itself.
PRIVATE = {
    *("hub_token", "logging_dir", "local_rank", "report_to", "run_name", "project", "trackio_space_id"),
    *("trackio_bucket_id", "trackio_static_space_id", "ddp_backend", "log_level", "log_level_replica", "disable_tqdm"),
    *("accelerator_config", "parallelism_config", "deepspeed", "fsdp_config", "debug", "dataloader_pin_memory"),
    *("use_cpu", "feature_cache_dir", "check_data", "resume_from_checkpoint"),
}

logger = logging.getLogger(__name__)


@dataclass
class DatasetOrigin:
    """The origin of a dataset of the recipe."""

    name: str
    source: str
    hub_ids: list[str] = field(default_factory=list)
    """Hub datasets that the rows come from."""
    license: str | None = None
    languages: list[str] = field(default_factory=list)
    account: str | None = None
    """How the dataset was made, quoted from its card as plain text."""
    machine_labelled: dict[str, list[str]] = field(default_factory=dict)
    """Task with machine-made labels → the splits that have them."""


@dataclass
class Provenance:
    """The parts of a model card that the Trainer does not know."""

    started_from: str
    """Name of the encoder or checkpoint that training started from."""
    base_model: str | None
    """Its Hub id, if it has one."""
    is_continued: bool
    """Whether it was an mtsbert checkpoint, with heads."""
    datasets: list[DatasetOrigin]
    max_length: int
    num_rows: dict[str, int]
    """Split → rows."""
    num_labelled: dict[str, dict[str, int]]
    """Task → split → rows with a label."""
    recipe: dict[str, Any]
    """The settings of model and data that differ from their defaults."""

    def machine_labelled(self, split: str) -> frozenset[str]:
        """Returns the tasks whose labels in a split are machine-made, at least in part."""
        return frozenset(
            task for origin in self.datasets for task, splits in origin.machine_labelled.items() if split in splits
        )


def provenance_of(model_args: ModelArguments, data_args: DataArguments, data: TaskData) -> Provenance:
    asked = model_args.model_name_or_path or model_args.encoder_name_or_path
    return Provenance(
        started_from=public_name(asked),
        base_model=asked if is_hub_id(asked) else None,
        is_continued=model_args.model_name_or_path is not None,
        datasets=[_without_gold(_origin(name, spec), data.of_gold) for name, spec in data_args.datasets.items()],
        max_length=data_args.max_length,
        num_rows={split: len(rows) for split, rows in data.examples.items()},
        num_labelled={task: {split: data.num_labelled(split, task) for split in data.examples} for task in data.tasks},
        recipe=changed_settings(model_args) | changed_settings(data_args),
    )


def _without_gold(origin: DatasetOrigin, tasks: list[str]) -> DatasetOrigin:
    """Leaves out the validation labels of tasks that gold rows decide: the machine-made ones are not used there."""
    found = {
        task: [split for split in splits if split != "validation" or task not in tasks]
        for task, splits in origin.machine_labelled.items()
    }
    origin.machine_labelled = {task: splits for task, splits in found.items() if splits}
    return origin


def provenance_in_memory(
    model: MTSBertModel, features: Mapping[str, Dataset | None], *, max_length: int
) -> Provenance:
    """
    Builds the provenance for a Trainer whose model and data were passed as objects.

    Args:
        model ([`MTSBertModel`]): The model.
        features (`dict[str, Dataset]`): The features under `"train_dataset"` and `"eval_dataset"`.
        max_length (`int`): The maximum number of tokens per text.
    """
    name = name_of(model)
    by_split = {"train": features.get("train_dataset"), "validation": features.get("eval_dataset")}
    by_split = {split: rows for split, rows in by_split.items() if rows is not None}
    names = dict.fromkeys(name for rows in by_split.values() for name in rows.features[DATASET].names)
    return Provenance(
        started_from=public_name(name) if name else "a model without a name",
        base_model=name if name and is_hub_id(name) else None,
        is_continued=bool(model.config.name_or_path),
        datasets=[DatasetOrigin(name, "rows in memory") for name in names],
        max_length=max_length,
        num_rows={split: len(rows) for split, rows in by_split.items()},
        num_labelled={
            task: {split: num_labelled_rows(rows, task) for split, rows in by_split.items()}
            for task in model.config.tasks
        },
        recipe={"max_length": max_length},
    )


def _origin(name: str, spec: dict) -> DatasetOrigin:
    if "files" in spec:
        files = sorted(set(spec["files"].values()))
        return DatasetOrigin(name, ", ".join(public_name(file) for file in files))
    path = Path(spec["path"])
    origin = DatasetOrigin(name, public_name(spec["path"]))
    if is_hub_id(spec["path"]):
        origin.hub_ids.append(spec["path"])
    if (card := _card(path)) is None:
        return origin
    if isinstance(license := card.data.get("license"), str):
        origin.license = license
    languages = card.data.get("language") or []
    origin.languages = [languages] if isinstance(languages, str) else list(languages)
    tags = card.data.get("tags") or []
    if SILVER_LABELS in tags:
        origin.account = _account(card.text)
        origin.hub_ids += re.findall(r"\(https://huggingface\.co/datasets/([\w.-]+/[\w.-]+)\)", card.text)
        columns = spec.get("columns") or {column: column for column in SILVER_COLUMNS}
        splits = [
            split for split in SPLITS if not path.is_dir() or any(path.glob(f"**/{_stem(spec, split)}*.parquet"))
        ]
        origin.machine_labelled = {columns[column]: splits for column in SILVER_COLUMNS if column in columns}
    return origin


def _stem(spec: dict, split: str) -> str:
    return spec.get("splits", {}).get(split, split)


def _card(path: Path) -> DatasetCard | None:
    """Loads the dataset card of a folder or a Hub dataset; None if it does not exist or cannot be read."""
    file = path / "README.md"
    if path.exists() and not file.is_file():
        return None
    try:
        return DatasetCard.load(file if file.is_file() else str(path), ignore_metadata_errors=True)
    except (OSError, ValueError, yaml.YAMLError) as error:
        logger.warning(f"The card of dataset {path} cannot be read ({type(error).__name__}): its licence is unknown.")
        return None


def _account(text: str) -> str:
    """Returns the text of a card between its title and the first table or section, without Markdown."""
    lines = [line for line in text.split("\n") if not line.startswith("# ")]
    end = next((index for index, line in enumerate(lines) if line.startswith(("#", "|"))), len(lines))
    words = plain(" ".join(lines[:end]))
    words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", words)
    return re.sub(r"\*\*|`", "", words)[:MOST_LETTERS]


def is_hub_id(name: str) -> bool:
    """Whether a name looks like a Hub id and is not an existing local path."""
    if name.startswith(PACKAGE_PREFIX) or Path(name).exists() or Path(name).is_absolute():
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return not name.startswith((".", "~"))


def public_name(name: str) -> str:
    """Shortens a path for publication: relative to the working directory if it is inside, otherwise its last part."""
    if "://" in name:  # a URL may contain a password
        return name.rpartition("/")[2].partition("?")[0]
    path = Path(name)
    if path.is_absolute() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd()).as_posix()
    if path.is_absolute() or ".." in path.parts or name.startswith("~"):
        return path.name
    if "\\" in name or PureWindowsPath(name).drive:
        return PureWindowsPath(name).name
    return name


def changed_settings(arguments: ModelArguments | DataArguments | MTLTrainingArguments) -> dict[str, Any]:
    """Returns the arguments that differ from their defaults, with shortened paths and without secrets."""
    changed = {}
    for setting in fields(arguments):
        value = getattr(arguments, setting.name)
        default = setting.default if setting.default_factory is MISSING else setting.default_factory()
        if value == default or setting.name in PRIVATE or value in (None, {}, []):
            continue
        if isinstance(default, str | None) and value is False:  # TrainingArguments replaces a missing value by False
            continue
        changed[setting.name] = _public_value(value)
    return changed


def _public_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(_public_value(key)): _public_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_public_value(item) for item in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    text = getattr(value, "value", value)  # of an enum
    return public_name(str(text)) if _looks_like_a_path(str(text)) else str(text)


def _looks_like_a_path(text: str) -> bool:
    return (
        "://" in text
        or PurePosixPath(text).is_absolute()
        or PureWindowsPath(text).drive != ""
        or (text.startswith(("~", "..", ".\\")) or "/../" in text)
    )
