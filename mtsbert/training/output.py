"""Writes the output of a run: checkpoint, results and predictions."""

import json
import logging
import tempfile
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path

import datasets
import transformers
from tqdm import tqdm

from mtsbert.arguments import MTLTrainingArguments
from mtsbert.data.sources import TEXT, TEXT_PAIR
from mtsbert.machine import number_format
from mtsbert.network.embedding_targets import EMBEDDING
from mtsbert.network.starting_point import resolve_name
from mtsbert.results.answers import answers
from mtsbert.runs import RESULTS_FILE
from mtsbert.training.trainer import MTSBertTrainer


PREDICTIONS_FILE = "predictions.jsonl"
OF_TRAINING = f"eval_{EMBEDDING}_"  # of the validation split, but measured only by a run that trains

logger = logging.getLogger(__name__)


def set_up_logging(args: MTLTrainingArguments) -> None:
    """Logs messages of this project at INFO on the main process, and those of transformers as its flags say."""
    logging.basicConfig(format="%(levelname)s %(message)s")
    logging.getLogger("mtsbert").setLevel(logging.INFO if args.process_index == 0 else logging.ERROR)
    transformers.utils.logging.set_verbosity(args.get_process_log_level())
    if args.disable_tqdm or args.process_index:
        datasets.disable_progress_bars()
    logger.info(f"Computing in {number_format(args)} on {args.device.type}, {args.world_size} process(es).")


def check_writable(output_dir: str, *, others: Iterable[str | None] = ()) -> None:
    """
    Creates the output folder. Raises `ValueError` if no file can be written to it, or it is one of other models.

    Args:
        output_dir (`str`): The folder.
        others (iterable of `str`, *optional*): Names of models that a run only reads: folders, Hub ids or None.
    """
    for name in filter(None, others):
        if Path(resolve_name(name)).resolve() == Path(output_dir).resolve():
            raise ValueError(f"`output_dir` is the folder of {name!r}, which the run would write over; name another.")
    try:
        Path(output_dir).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=output_dir).close()
    except OSError as error:
        raise ValueError(f"The output folder {output_dir} cannot be written: {error}.") from None


def save_run(
    trainer: MTSBertTrainer, metrics: dict[str, float], *, trained: bool, started_from: str | None = None
) -> None:
    """
    Writes `all_results.json` and, after training, the checkpoint and the trainer's state. With `do_train`, the model
    card and its plots are written as well.

    Args:
        trainer ([`MTSBertTrainer`]): The trainer of the run.
        metrics (`dict[str, float]`): What the run has measured.
        trained (`bool`): Whether it has trained.
        started_from (`str`, *optional*): The checkpoint that it started from. If that is the output folder and nothing
            was trained, the results of training stay in `all_results.json`.
    """
    folder = Path(trainer.args.output_dir)
    is_same = started_from is not None and Path(resolve_name(started_from)).resolve() == folder.resolve()
    if is_same and not trained and trainer.is_world_process_zero():
        metrics = metrics | _not_measured_again(folder / RESULTS_FILE, metrics)
    if trained:
        trainer.save_model(_internal_call=True)  # does not push; that happens once, later
        trainer.save_state()
    trainer.save_metrics("all", metrics, combined=False)
    if trainer.args.do_train:
        trainer.create_model_card()


def _not_measured_again(path: Path, metrics: dict[str, float]) -> dict[str, float]:
    """What is in a file of results, without the splits that `metrics` are of."""
    try:
        before = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # there is none, or it is not ours
        return {}
    if not isinstance(before, dict):
        return {}
    splits = tuple(prefix for prefix in ("eval_", "test_") if any(name.startswith(prefix) for name in metrics))
    return {
        name: value for name, value in before.items() if name.startswith(OF_TRAINING) or not name.startswith(splits)
    }


def save_predictions(trainer: MTSBertTrainer, texts: Iterable[str | tuple[str, str]], *, total: int) -> None:
    """Writes the predictions for texts or pairs as JSON lines, in order and without embeddings."""
    writes = trainer.is_world_process_zero()
    if not writes and not trainer.is_fsdp_enabled:  # with FSDP, each rank has only a part of the weights
        return
    path = Path(trainer.args.output_dir) / PREDICTIONS_FILE
    partial = path.with_suffix(".partial")
    pipeline = trainer.model.eval().as_pipeline(trainer.processing_class, device=trainer.model.device)
    rows = ({TEXT: text} if isinstance(text, str) else {TEXT: text[0], TEXT_PAIR: text[1]} for text in texts)
    with partial.open("w", encoding="utf-8") if writes else nullcontext() as lines:
        for answer in tqdm(answers(pipeline, rows), desc="Predicting", total=total, disable=not writes):
            if writes:
                lines.write(json.dumps(answer, ensure_ascii=False) + "\n")
    if writes:
        partial.rename(path)
