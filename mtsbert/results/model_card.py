"""Writes the model card (README.md) of a checkpoint: its tasks, results, training data and usage."""

import logging
import math
import os
import platform
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResult, ModelCardData
from transformers import Trainer
from transformers.utils import ADAPTER_SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from configuration_mtsbert import (
    CALIBRATIONS,
    COSENT,
    PAIR_CLASSIFICATION,
    PAIR_RANKING,
    PAIR_SIMILARITY,
    SCORE_TYPES,
    SEQUENCE_CLASSIFICATION,
    SEQUENCE_REGRESSION,
    TOKEN_CLASSIFICATION,
    MTSBertConfig,
)
from entities_mtsbert import entity_types
from mtsbert.machine import number_format
from mtsbert.results.metrics import COMPOSITE
from mtsbert.results.plots import LOSSES, draw_plots
from mtsbert.results.provenance import Provenance, changed_settings, public_name
from mtsbert.results.snippets import COMMIT, snippets
from mtsbert.results.tables import TITLES, escape, markdown_table, parameter_table, plain


CARD_FILE = "README.md"
MOST_LABELS = 100  # labels listed per task
HUB_TASKS = {
    SEQUENCE_CLASSIFICATION: "text-classification",
    TOKEN_CLASSIFICATION: "token-classification",
    PAIR_CLASSIFICATION: "text-classification",
    SEQUENCE_REGRESSION: "text-classification",
    PAIR_SIMILARITY: "sentence-similarity",
    PAIR_RANKING: "sentence-similarity",
}
WHAT_IT_DOES = {
    SEQUENCE_CLASSIFICATION: "one label for a text",
    TOKEN_CLASSIFICATION: "entities in a text",
    PAIR_CLASSIFICATION: "one label for two texts",
    SEQUENCE_REGRESSION: "one number for a text",
    PAIR_SIMILARITY: "how alike two texts are: the cosine of their embeddings",
    PAIR_RANKING: "whether two texts belong together: the cosine of their embeddings",
}
METRIC_NAMES = {  # our name → the Hub's name, and the name shown to readers
    "accuracy": ("accuracy", "accuracy"),
    "macro_f1": ("f1", "macro F1"),
    "precision": ("precision", "entity precision"),
    "recall": ("recall", "entity recall"),
    "f1": ("f1", "entity F1"),
    "spearman": ("spearmanr", "Spearman correlation"),
    "mae": ("mae", "mean absolute error"),
    "r2": ("r_squared", "R²"),
    "pearson": ("pearsonr", "Pearson correlation"),
    "mrr": ("mrr", "mean reciprocal rank"),
    "recall_at_10": ("recall", "recall at 10"),
}
AGREEMENT = "agreement with machine labels"
COSINE_OF_AN_INDEX = 0.95  # from this mean cosine on, an index of the old embeddings is still usable

logger = logging.getLogger(__name__)


def write_model_card(
    trainer: Trainer,
    *,
    model_name: str | None = None,
    finetuned_from: str | None = None,
    language: str | list[str] | None = None,
    license: str | None = None,
    tags: str | list[str] | None = None,
    dataset_tags: str | list[str] | None = None,
) -> None:
    """
    Draws the plots and writes the model card of a run with the results so far. A run without training does not
    overwrite an existing card.

    Args:
        trainer ([`MTSBertTrainer`]): The trainer of the run.
        model_name (`str`, *optional*): The name of the model. Default: from the Hub id or the output folder.
        finetuned_from (`str`, *optional*): The Hub id of the base model. Default: the one in the provenance.
        language (`str` or `list[str]`, *optional*): Language codes. Default: those of the datasets, if they agree.
        license (`str`, *optional*): The license of the model.
        tags (`str` or `list[str]`, *optional*): Further tags.
        dataset_tags (`str` or `list[str]`, *optional*): Hub ids of datasets beside those in the provenance.
    """
    folder = Path(trainer.args.output_dir)
    path = folder / CARD_FILE
    if not trainer.state.global_step and path.exists():
        logger.info(f"{path} stays as it is, because this run has trained nothing.")
        return
    card = ModelCard(trainer, model_name)
    text = f"---\n{card.metadata(finetuned_from, language, license, tags, dataset_tags)}\n---\n\n{card.text()}"
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    os.replace(partial, path)


class ModelCard:
    """Builds the model card of a run. All names that users have chosen are escaped."""

    def __init__(self, trainer: Trainer, model_name: str | None = None):
        self.trainer = trainer
        self.folder = Path(trainer.args.output_dir)
        self.config: MTSBertConfig = trainer.accelerator.unwrap_model(trainer.model).config
        self.tasks: dict[str, dict] = self.config.tasks
        self.provenance: Provenance | None = trainer.provenance
        self.evaluations = {split: trainer.evaluations[split] for split in TITLES if split in trainer.evaluations}
        hub_id = trainer.hub_model_id or trainer.args.hub_model_id
        self.is_on_hub = hub_id is not None
        self.model_id = hub_id or self.folder.resolve().name
        self.model_name = plain(model_name or self.model_id.rpartition("/")[2]) or "mtsbert"
        best = next(reversed(self.evaluations), None)  # the test split, if it was evaluated
        self.plots = draw_plots(
            self.folder,
            self.tasks,
            log_history=trainer.state.log_history,
            evaluation=self.evaluations.get(best),
            split=TITLES.get(best, ""),
            machine_labelled=self._machine_labelled(best),
        )

    def _machine_labelled(self, split: str | None) -> frozenset[str]:
        """Returns the tasks with machine-made labels in a split, `"eval"` or `"test"`."""
        return frozenset() if self.provenance is None else self.provenance.machine_labelled(TITLES.get(split, "train"))

    # Metadata

    def metadata(
        self,
        finetuned_from: str | None = None,
        language: str | list[str] | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
    ) -> str:
        """
        Returns the YAML metadata that the Hub reads. Unknown entries are left out.

        Args:
            finetuned_from, language, license, tags, dataset_tags: See [`write_model_card`].
        """
        origins = self.provenance.datasets if self.provenance else []
        languages = {tuple(filter(is_language, origin.languages)) for origin in origins}
        if language is None and len(languages) == 1:
            language = list(languages.pop())
        named = [dataset_tags] if isinstance(dataset_tags, str) else dataset_tags or []
        results = self.eval_results()
        return ModelCardData(
            language=language or None,
            license=license,
            library_name="transformers",
            base_model=finetuned_from or (self.provenance.base_model if self.provenance else None),
            datasets=sorted({hub_id for origin in origins for hub_id in origin.hub_ids} | {*named}) or None,
            pipeline_tag=self._pipeline_tag(),
            tags=self._tags([tags] if isinstance(tags, str) else tags or []),
            metrics=sorted({result.metric_type for result in results}) or None,
            model_name=self.model_name if results else None,
            eval_results=results or None,
        ).to_yaml()

    def _pipeline_tag(self) -> str:
        """Returns a task that the Hub knows and one of the standard pipelines supports. "multi-task" is not known."""
        for task_type in (SEQUENCE_CLASSIFICATION, TOKEN_CLASSIFICATION, SEQUENCE_REGRESSION):
            if self.config.tasks_of_type(task_type):
                return HUB_TASKS[task_type]
        return "sentence-similarity"

    def _tags(self, more: list[str]) -> list[str]:
        of_tasks = [HUB_TASKS[task["type"]] for task in self.tasks.values()]
        return ["mtsbert", "multi-task", "sentence-transformers", "feature-extraction", *of_tasks, *more]

    def eval_results(self) -> list[EvalResult]:
        """Returns an `EvalResult` for each task, split and metric."""
        origins = self.provenance.datasets if self.provenance else []
        names = [origin.name for origin in origins] or ["data"]
        hub_ids = sorted({hub_id for origin in origins for hub_id in origin.hub_ids})
        results = []
        for split, task, metric, value in self._figures():
            metric_type, metric_name = METRIC_NAMES[metric]
            if task in self._machine_labelled(split):
                metric_name += f" ({AGREEMENT})"
            results.append(
                EvalResult(
                    task_type=HUB_TASKS[self.tasks[task]["type"]],
                    task_name=task,
                    dataset_type=hub_ids[0] if len(hub_ids) == len(names) == 1 else plain(names[0]),
                    dataset_name=", ".join(map(plain, names)),
                    # Without it, huggingface_hub would merge two tasks of the same type into one entry.
                    dataset_config=task,
                    dataset_split=TITLES[split],
                    metric_type=metric_type,
                    metric_name=metric_name,
                    metric_value=value,
                )
            )
        return results

    def _figures(self) -> list[tuple[str, str, str, float]]:
        """Returns split, task, metric and value of each result."""
        return [
            (split, task, metric, evaluation.metrics[f"{task}_{metric}"])
            for task in self.tasks
            for split, evaluation in self.evaluations.items()
            for metric in METRIC_NAMES
            if math.isfinite(evaluation.metrics.get(f"{task}_{metric}", math.nan))
        ]

    # Text

    def text(self) -> str:
        sections = {
            "Results": self._results(),
            "Use": self._use(),
            "Labels": self._labels(),
            "Data": self._data(),
            "Training": self._training(),
            "Limits": self._limits(),
        }
        told = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
        return f"# {escape(self.model_name)}\n\n{self._summary()}\n\n{told}\n"

    def _summary(self) -> str:
        lines = [
            "One encoder that answers several questions about a text in a single pass: its sentence embedding "
            f"({self.config.embedding_size} numbers), and",
            "",
        ]
        for name, task in self.tasks.items():
            what = "any number of labels for a text" if task.get("multi_label") else WHAT_IT_DOES[task["type"]]
            lines.append(f"- **{escape(name)}**: {what}")
        encoder = self.config.encoder_config
        origin = self.provenance
        started = f", started from {self._started_from(origin)}" if origin else ""
        num_layers = getattr(encoder.get_text_config(), "num_hidden_layers", None)
        shape = f"{num_layers} layers of width {self.config.hidden_size}, " if num_layers else ""
        parameters = sum(part.num_parameters for part in self.trainer.freezing.parts.values())
        lines += ["", f"Encoder: {escape(encoder.model_type)}, {shape}{parameters:,} parameters in all{started}."]
        if self.config.distilled_from:
            lines[-1] += f" It has learned the answers of {escape(self.config.distilled_from)} (distillation)."
        return "\n".join(lines)

    @staticmethod
    def _started_from(origin: Provenance) -> str:
        name = escape(origin.started_from)
        if origin.base_model:
            name = f"[{name}](https://huggingface.co/{origin.base_model})"
        return f"the mtsbert checkpoint {name}" if origin.is_continued else name

    def _results(self) -> str:
        rows: dict[tuple[str, str], dict[str, float]] = {}
        for split, task, metric, value in self._figures():
            name = METRIC_NAMES[metric][1]
            name += f" ({AGREEMENT})" if task in self._machine_labelled(split) else ""
            rows.setdefault((escape(task), name), {})[split] = value
        for split, evaluation in self.evaluations.items():
            if math.isfinite(value := evaluation.metrics.get(COMPOSITE, math.nan)):
                rows.setdefault(("all", "composite: mean of the tasks' main metrics"), {})[split] = value
        if not rows:
            return "This run has measured nothing."
        numbers = self.provenance.num_rows if self.provenance else {}
        heads = [
            TITLES[split] + (f" ({numbers[TITLES[split]]:,} rows)" if TITLES[split] in numbers else "")
            for split in self.evaluations
        ]
        cells = [["task", "metric", *heads]]
        for names, values in rows.items():
            cells.append([*names, *(f"{values[split]:.4f}" if split in values else "" for split in self.evaluations)])
        told = [markdown_table(cells)]
        if any(AGREEMENT in name for _, name in rows):
            told.append(
                "Figures called agreement compare with labels that a program made (see Data): they say how far the "
                "model does as that program does, not how often it is right."
            )
        if (moved := self._embedding()) is not None:
            told.append(moved)
        if calibration := self._calibration():
            told.append(calibration)
        if self.trainer.args.load_best_model_at_end and "eval" in self.evaluations:
            told.append("The checkpoint was chosen on the validation split, whose figures flatter it for that reason.")
        for task, path in self.plots.items():
            if task != LOSSES:
                what = "Entities" if self.tasks[task]["type"] == TOKEN_CLASSIFICATION else "Labels and answers"
                told.append(f"![{what} of the task {escape(task)}]({path})")
        return "\n\n".join(told)

    def _embedding(self) -> str | None:
        """Says how far the sentence embedding has moved from that of the initial model on validation texts."""
        metrics = self.evaluations["eval"].metrics if "eval" in self.evaluations else {}
        if self.provenance is None or "embedding_cosine" not in metrics:
            return None
        name, cosine = escape(self.trainer.reference_name), metrics["embedding_cosine"]
        overlap = metrics.get("embedding_overlap_at_10")
        found = f"mean cosine {cosine:.3f}" + ("" if overlap is None else f", neighbour overlap@10 {overlap:.2f}")
        if cosine >= COSINE_OF_AN_INDEX:
            return (
                f"The sentence embedding can be searched in an index built with {name}: on validation texts, {found}."
            )
        return (
            f"This embedding has moved from that of {name}: on validation texts, {found}. An index built with "
            "that model must be built anew, and similarities mean something else."
        )

    def _calibration(self) -> str:
        """Says which scores can be read as probabilities of being right."""
        fits = self.trainer.calibration
        raw = [
            task
            for task, settings in self.tasks.items()
            if settings["type"] not in SCORE_TYPES and not any(key in settings for key in CALIBRATIONS)
        ]
        told = [
            f"Scores of **{escape(task)}** are calibrated on {fit.num_items:,} answers on validation texts: a score "
            f"is the probability of being right. Log loss there: {fit.loss_before:.3f} before, {fit.loss_after:.3f} "
            f"after; expected calibration error: {fit.error_before:.3f} before, {fit.error_after:.3f} after."
            for task, fit in fits.items()
        ]
        if raw:
            names = ", ".join(f"**{escape(task)}**" for task in raw)
            told.append(f"Scores of {names} are not calibrated: they order answers, and are no probabilities.")
        return " ".join(told)

    def _use(self) -> str:
        weights = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME, ADAPTER_SAFE_WEIGHTS_NAME)
        is_saved = any((self.folder / name).exists() for name in weights)
        if not is_saved and not self.trainer.args.push_to_hub:  # a push saves the model
            return "This run has trained nothing, and left no checkpoint here."
        is_pinned = self.is_on_hub and self.trainer.args.lora_merge
        told = [
            "`trust_remote_code=True` runs the `*_mtsbert.py` files that lie beside the weights. torch and "
            "transformers are enough where nothing else is imported; spaCy and the two commands need the package "
            "mtsbert."
            if self.trainer.args.lora_merge
            else f"This is an adapter (LoRA): it is opened on {self._started_from(self.provenance)}, which must be "
            "there, with the code of that checkpoint, and needs `pip install peft`."
        ]
        if is_pinned:
            told.append(
                f"`{COMMIT}` stands for the commit whose code you have read, from the history of this repository's "
                "files: what is run is then that, whatever is pushed later."
            )
        for title, (language, code) in snippets(self.config, self.model_id, is_hub_id=is_pinned).items():
            told.append(f"### {title}\n\n{fenced(code, language)}")
        return "\n\n".join(told)

    def _labels(self) -> str:
        told = []
        for name, task in self.tasks.items():
            if task["type"] == PAIR_SIMILARITY:
                lowest, highest = task["score_range"]
                use = "of which only the order is learned" if task.get("loss") == COSENT else "scaled to 0 to 1"
                told.append(f"**{escape(name)}**: scores from {lowest:g} to {highest:g}, {use}.")
                continue
            if task["type"] == SEQUENCE_REGRESSION:
                lowest, highest = task.get("score_range", (None, None))
                found = "numbers" if lowest is None else f"numbers from {lowest:g} to {highest:g}"
                told.append(f"**{escape(name)}**: {found}.")
                continue
            if task["type"] == PAIR_RANKING:
                told.append(f"**{escape(name)}**: none; texts that belong together are ranked above all others.")
                continue
            is_token = task["type"] == TOKEN_CLASSIFICATION
            labels = entity_types(task["labels"]) if is_token else list(task["labels"])
            shown = ", ".join(map(escape, labels[:MOST_LABELS]))
            if len(labels) > MOST_LABELS:
                shown += f", and {len(labels) - MOST_LABELS} more (see `config.json`)"
            kind = "entity types" if is_token else "labels"
            told.append(f"**{escape(name)}** ({len(labels)} {kind}): {shown}")
        return "\n\n".join(told)

    def _data(self) -> str:
        if self.provenance is None:
            return ""
        told = []
        for origin in self.provenance.datasets:
            facts = f"**{escape(origin.name)}**: {escape(origin.source)}."
            facts += f" Licence: {escape(origin.license)}." if origin.license else " Licence: not known."
            if origin.hub_ids:
                links = [f"[{hub_id}](https://huggingface.co/datasets/{hub_id})" for hub_id in origin.hub_ids]
                facts += f" On the Hub: {', '.join(links)}."
            told.append(facts)
            if origin.account:
                told.append(f"> {escape(origin.account)}")
            if origin.machine_labelled:
                names = ", ".join(map(escape, origin.machine_labelled))
                told.append(
                    f"So the labels of {names} are a program's, mistakes included, and a model that learns them "
                    "learns the mistakes too."
                )
        if any(not origin.machine_labelled for origin in self.provenance.datasets):
            told.append(
                "Where nothing else is said, labels are those of the source, and this run has not checked them."
            )
        splits = list(self.provenance.num_rows)
        cells = [["rows with a label for", *splits]]
        for task, numbers in self.provenance.num_labelled.items():
            cells.append([escape(task), *(f"{numbers[split]:,}" for split in splits)])
        cells.append(["rows in all", *(f"{self.provenance.num_rows[split]:,}" for split in splits)])
        return "\n\n".join([*told, markdown_table(cells)])

    def _training(self) -> str:
        trainer = self.trainer
        if not trainer.state.global_step:
            return "Nothing was trained: this run has only evaluated."
        facts = [f"{trainer.state.global_step:,} optimizer steps", f"{trainer.state.epoch or 0:.3g} epochs"]
        if seconds := trainer.training_metrics.get("train_runtime"):
            facts.append(f"{_duration(seconds)} on {_hardware(trainer)}")
        else:
            facts.append(f"on {_hardware(trainer)}, not finished when this was written")
        told = [", ".join([*facts, number_format(trainer.args)]) + "."]
        if LOSSES in self.plots:
            told.append(f"![Losses in training and validation]({self.plots[LOSSES]})")
        total = sum(part.num_parameters for part in trainer.freezing.parts.values())
        trained = trainer.freezing.num_trained_parameters
        told.append(
            f"What was trained: {trained:,} of {total:,} parameters.\n\n"
            f"{parameter_table(trainer.freezing, trainer.learning_rates)}"
        )
        told.append(f"All settings that were not left at their defaults:\n\n{fenced(self._recipe(), 'yaml')}")
        packages = ("torch", "transformers", "datasets", "accelerate", "tokenizers")
        told.append(
            f"Versions: Python {platform.python_version()}, "
            + ", ".join(f"{package} {version(package)}" for package in packages)
            + "."
        )
        return "\n\n".join(told)

    def _recipe(self) -> str:
        settings = changed_settings(self.trainer.args) | {"output_dir": public_name(self.trainer.args.output_dir)}
        if self.provenance:
            settings = self.provenance.recipe | settings
        return yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100).strip()

    def _limits(self) -> str:
        limits = []
        if self.provenance:
            limits.append(f"Trained and measured on the first {self.provenance.max_length} word pieces of a text.")
        limits.append(
            "The multi-task pipeline reads longer texts in overlapping windows; the other doors read what the "
            "encoder takes at once."
        )
        if self.config.tasks_of_type(TOKEN_CLASSIFICATION):
            limits.append("Entities do not overlap, and none lies inside another.")
        if self.provenance and any(origin.machine_labelled for origin in self.provenance.datasets):
            limits.append("Part of the labels are a program's, as said above.")
        limits.append("Measured on the splits named above and nothing else: other texts may fare worse.")
        return "\n".join(f"- {limit}" for limit in limits)


def is_language(code: Any) -> bool:
    """Whether a value looks like a language code."""
    return isinstance(code, str) and re.fullmatch(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*", code) is not None


def fenced(code: str, language: str) -> str:
    """Formats a fenced code block, with a fence that is longer than any in the code."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", code)), default=0))
    return f"{fence}{language}\n{code}\n{fence}"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _hardware(trainer: Trainer) -> str:
    """Describes the hardware without naming the machine."""
    processes = f"{trainer.args.world_size} × " if trainer.args.world_size > 1 else ""
    device: Any = trainer.args.device
    if device.type == "cuda":
        return processes + torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return processes + device.type
    names = []
    if (info := Path("/proc/cpuinfo")).exists():
        lines = info.read_text(encoding="utf-8", errors="replace").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return (
        f"{processes}processor ({torch.get_num_threads()} threads) {escape(names[0] if names else platform.machine())}"
    )
