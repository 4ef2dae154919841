"""Trains the model of each fold, and keeps what it finds. What is finished is not done again."""

import json
import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from datasets import Dataset

from mtsbert.data.labels import check_recipe_tasks
from mtsbert.recipe import parse_arguments
from mtsbert.relabelling.folds import Folds
from mtsbert.runs import check_data, copy_recipe, folder_of_run, run_once


# Only the last weights count, and for nobody else: no evaluation, no checkpoints, no calibration, no push.
FLAGS = [
    "--do_train=True", "--do_eval=False", "--do_predict=False", "--check_data=False", "--eval_strategy=no",
    "--save_strategy=no", "--load_best_model_at_end=False", "--calibration=False", "--push_to_hub=False",
]  # fmt: skip
LEFT_OUT = ("early_stopping_patience", "metric_for_best_model", "resume_from_checkpoint")  # of the recipe

logger = logging.getLogger(__name__)


class FoldModels:
    """
    Args:
        config (`Path`): The recipe to train with. One of its datasets must be `data`.
        data (`Path`): The prepared dataset.
        folder (`Path`): Where to keep datasets, runs and what was found, of this question alone.
        find_with (`Callable[[str], Callable]`): Loads a checkpoint as a function of texts to their spans.

    Raises:
        `ValueError`: if there is no such recipe, or it does not train on `data`.
    """

    def __init__(self, config: Path, data: Path, folder: Path, find_with: Callable[[str], Callable]):
        self.config, self.data, self.folder, self._find_with = config, data, folder, find_with
        if not config.is_file():
            raise ValueError(f"--config {config}: no such file.")
        parse_arguments([f"--config={config}", f"--output_dir={folder}"])
        with tempfile.TemporaryDirectory() as place:
            recipe = copy_recipe(config, Path(place), without=LEFT_OUT)
            _, data_args, training_args = parse_arguments([f"--config={recipe}", f"--output_dir={folder}", *FLAGS])
        self.tasks: dict[str, dict] = data_args.tasks
        check_recipe_tasks(self.tasks)
        self.datasets: dict[str, dict] = data_args.datasets
        check_data(self.datasets, data_args.prepare)
        self.epochs = training_args.num_train_epochs
        self.names = [
            name for name, spec in self.datasets.items() if Path(spec.get("path", "")).resolve() == data.resolve()
        ]
        if not self.names:
            raise ValueError(f"{config} trains on no dataset whose path is {data}; name that one as --data.")
        if any(self.datasets[name].get("label_map") for name in self.names):
            raise ValueError(
                f"{config} renames the labels of {data} (`label_map`), so that its models confirm none of them. "
                "Relabel with a recipe that does not, and rename afterwards."
            )
        if any(self.datasets[name].get("gold") for name in self.names):
            raise ValueError(f"{data} is `gold` in {config}: what people marked is not relabelled.")

    def found(self, fold: int, rows: Dataset, folds: Folds) -> list[list[dict]]:
        """
        Returns what the model of a fold finds in every row.

        Args:
            fold (`int`): The number of the fold.
            rows (`Dataset`): All training rows, with `text` and `entities`.
            folds ([`Folds`]): The folds.
        """
        kept = self.folder / f"found_{fold}.jsonl"
        if kept.is_file():
            return [json.loads(line) for line in kept.read_text(encoding="utf-8").splitlines()]
        checkpoint = self._train(fold, rows, folds)
        logger.info(f"Model {fold + 1} of {folds.num_folds} reads {len(rows):,} texts.")
        found = self._find_with(str(checkpoint))(rows["text"][:])
        partial = kept.with_suffix(".partial")
        partial.write_text("".join(json.dumps(spans) + "\n" for spans in found), encoding="utf-8")
        partial.rename(kept)
        for weights in checkpoint.glob("*.safetensors"):
            weights.unlink()
        return found

    def _train(self, fold: int, rows: Dataset, folds: Folds) -> Path:
        part = self.folder / f"data_{fold}"
        part.mkdir(parents=True, exist_ok=True)
        shown = rows.select([n for n, text in enumerate(rows["text"]) if not folds.is_held_out(text, fold)])
        shown = shown.map(
            lambda row: {
                "entities": None if row["entities"] is None else folds.opened(row["text"], row["entities"], fold)
            },
            load_from_cache_file=False,
            desc=f"Dataset of model {fold + 1}",
        )
        shown.to_parquet(part / "train.parquet")
        datasets = self.datasets | {name: self.datasets[name] | {"path": str(part)} for name in self.names}
        flags = [f"--datasets={json.dumps(datasets)}", *FLAGS]
        where = {"folder": self.folder / "runs", "name": f"model_{fold}"}
        logger.info(f"Model {fold + 1} of {folds.num_folds} learns from {len(shown):,} texts.")
        recipe = copy_recipe(self.config, self.folder, without=LEFT_OUT)
        try:
            run_once(recipe, flags, keeps_weights=True, **where)
        except RuntimeError as error:  # with what the run has said, as that a fold is left without entities
            raise ValueError(f"{error}") from None
        return folder_of_run(recipe, flags, **where)
