"""Evaluates the entities of a model against gold annotations, optionally next to those of its teacher.

    mtsbert evaluate-entities --model runs/quickstart --teacher spacy:en_core_web_sm --gold gold.bio

An entity is right if its boundaries and its type are exactly those of a gold entity. Different label sets are made
comparable with a mapping (--map), which is printed; types that are not in it are left out on all sides. The 95 %
intervals come from bootstrap resampling of sentences; for a difference, both sides use the same sentences.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from configuration_mtsbert import TOKEN_CLASSIFICATION
from entities_mtsbert import entity_types
from mtsbert.data.gold import COMMON_TYPES, ROWS, GoldFile, marks_of, parse_map, read_gold, restrict
from mtsbert.exports.pipeline import load_pipeline
from mtsbert.formats.tag_schemes import TAG_SCHEMES
from mtsbert.machine import add_precision_option, autocast
from mtsbert.preparation import data_prep
from mtsbert.results.entity_scores import (
    ALL,
    BOUNDARY_ONLY,
    F1,
    FOUND,
    RIGHT,
    TRUE,
    TYPE_ONLY,
    Scores,
    draw_sentences,
    f1_difference,
)
from mtsbert.results.tables import markdown_table
from mtsbert.results.unfinished import check_new_file, write_json


SPACY_PREFIX = "spacy:"
GOLD, TEACHER, MODEL, AGREEMENT = "gold", "teacher", "model", "model against teacher"


@dataclass(frozen=True)
class Finder:
    """A model or pipeline that finds entities in texts."""

    name: str
    types: list[str]
    find: Callable[[list[str]], list[list[dict]]]
    """Returns the spans of each text."""


def load_finder(
    name: str, *, task: str | None = None, precision: str = "auto", min_score: float | None = None
) -> Finder:
    """
    Loads something that finds entities.

    Args:
        name (`str`): An mtsbert checkpoint (a folder or a Hub id), or `spacy:NAME` for an installed spaCy pipeline.
        task (`str`, *optional*): The token task of the checkpoint. Required if it has several.
        precision (`str`, *optional*, defaults to `"auto"`): Precision of the checkpoint: `"fp32"`, `"bf16"`
            (autocast), or `"auto"` for bf16 if the machine supports it natively.
        min_score (`float`, *optional*): Overrides the `min_score` of the checkpoint's task (see `MTSBertConfig`).

    Raises:
        `ValueError`: if the model is not found, or has no such task.
    """
    if name.startswith(SPACY_PREFIX):
        return _load_spacy(name)
    pipeline = load_pipeline(name)
    tasks = pipeline.model.config.tasks
    of_tokens = [known for known, settings in tasks.items() if settings["type"] == TOKEN_CLASSIFICATION]
    if task is None and len(of_tokens) == 1:
        (task,) = of_tokens
    if task not in of_tokens:
        raise ValueError(f"The tasks of {name!r} that find entities are {of_tokens}; --task is {task!r}.")
    if min_score is not None:
        tasks[task] |= {"min_score": min_score, "thresholds": {}}

    def find(texts: list[str]) -> list[list[dict]]:
        with autocast(pipeline.device, precision):
            return [answer[task] for answer in pipeline(texts)]

    return Finder(name, entity_types(tasks[task]["labels"]), find)


def _load_spacy(name: str) -> Finder:
    labeller = data_prep("labelling").EntityLabeller(name.removeprefix(SPACY_PREFIX))

    def find(texts: list[str]) -> list[list[dict]]:
        return [
            [{"start": ent.start_char, "end": ent.end_char, "label": ent.label_} for ent in doc.ents]
            for doc in labeller.nlp.pipe(texts)
        ]

    return Finder(name, labeller.types, find)


@dataclass(frozen=True)
class GoldEvaluation:
    """The results on one gold file."""

    gold: GoldFile
    maps: dict[str, dict[str, str]]
    """Side (`GOLD`, `TEACHER`, `MODEL`) → its own type → the common type."""
    left_out: dict[str, list[str]]
    """Side → its types that are not in the map."""
    scores: dict[str, Scores]
    """`TEACHER` and `MODEL`: scores against gold; `AGREEMENT`: scores of the model against the teacher."""

    @property
    def types(self) -> tuple[str, ...]:
        """`ALL`, then the common types."""
        return self.scores[MODEL].types


def evaluate(
    gold: GoldFile,
    sides: dict[str, Finder],
    mapping: dict[str, str],
    *,
    normalize: bool = False,
    num_resamples: int = 1_000,
    seed: int = 42,
) -> GoldEvaluation:
    """
    Finds entities in the texts of a gold file and compares them with the gold entities.

    Args:
        gold (`GoldFile`): The gold file.
        sides (`dict[str, Finder]`): The model under `MODEL`, and optionally its teacher under `TEACHER`.
        mapping (`dict[str, str]`): Entity type of any label set → common type. Common types that no type of the gold
            file is mapped to are left out.
        normalize (`bool`, *optional*, defaults to `False`): Whether to strip articles and possessives on all sides,
            see `marks_of`.
        num_resamples (`int`, *optional*, defaults to 1000): The number of bootstrap samples for the intervals.
        seed (`int`, *optional*, defaults to 42): The seed of the bootstrap samples.

    Raises:
        `ValueError`: if the mapping contains no type of the gold file, or of one of the sides.
    """
    maps = {GOLD: restrict(gold.types, mapping)}
    types = sorted(set(maps[GOLD].values()))
    maps |= {side: restrict(finder.types, mapping, types) for side, finder in sides.items()}
    known = {GOLD: gold.types, **{side: finder.types for side, finder in sides.items()}}
    names = {GOLD: str(gold.path), **{side: finder.name for side, finder in sides.items()}}
    for side, of_side in maps.items():
        if not of_side:
            raise ValueError(
                f"No type of {names[side]} ({', '.join(known[side])}) is mapped"
                + (f" to {' or '.join(types)}, as those of {gold.path} are" if types else "")
                + ". Say what they are with --map TYPE=COMMON ..."
            )
    found = {GOLD: gold.entities, **{side: finder.find(gold.texts) for side, finder in sides.items()}}
    for side in sides:  # where the gold file has a span without a label, the right answer is not known
        found[side] = [_outside_open(*pair) for pair in zip(found[side], gold.entities, strict=True)]
    marks = {
        side: [
            marks_of(entities, text, maps[side], normalize=normalize)
            for text, entities in zip(gold.texts, found[side], strict=True)
        ]
        for side in found
    }
    draws = draw_sentences(len(gold.texts), num_resamples=num_resamples, seed=seed)
    scores = {side: Scores.of(marks[side], marks[GOLD], types, draws) for side in sides}
    if TEACHER in sides:
        scores[AGREEMENT] = Scores.of(marks[MODEL], marks[TEACHER], types, draws)
    left_out = {side: [name for name in known[side] if name not in maps[side]] for side in known}
    return GoldEvaluation(gold, maps, left_out, scores)


def _outside_open(found: list[dict], gold: list[dict]) -> list[dict]:
    """Returns the entities that do not overlap a gold span without a label."""
    opened = [span for span in gold if span["label"] is None]
    return [
        entity
        for entity in found
        if not any(entity["start"] < span["end"] and span["start"] < entity["end"] for span in opened)
    ]


def in_words(evaluation: GoldEvaluation) -> str:
    """Formats what was compared, and the results as Markdown tables."""
    gold, scores = evaluation.gold, evaluation.scores
    rows = f"{len(gold.texts):,} of {gold.num_rows:,}" if len(gold.texts) != gold.num_rows else f"{gold.num_rows:,}"
    lines = [f"{gold.path}: {rows} sentences, {scores[MODEL].counts[0, TRUE]:,} entities", ""]
    for side, mapping in evaluation.maps.items():
        pairs = ", ".join(f"{own} = {common}" for own, common in mapping.items())
        left_out = ", ".join(evaluation.left_out[side]) or "nothing"
        lines.append(f"{side}: {pairs}; left out: {left_out}")
    lines.append("")
    if TEACHER in scores:
        lines += [_side_by_side(evaluation), ""]
    return "\n".join([*lines, _details(evaluation), ""])


def _side_by_side(evaluation: GoldEvaluation) -> str:
    scores = evaluation.scores
    differences, ends = f1_difference(scores[MODEL], scores[TEACHER])
    cells = [["F1", "entities", TEACHER, MODEL, "difference", AGREEMENT]]
    for row, name in enumerate(evaluation.types):
        f1 = {side: _percent(scores[side], row, F1) for side in scores}
        low, high = 100 * ends[row]
        difference = f"{100 * differences[row]:+.1f} ({low:+.1f} to {high:+.1f})"
        cells.append([name, f"{scores[MODEL].counts[row, TRUE]:,}", f1[TEACHER], f1[MODEL], difference, f1[AGREEMENT]])
    return markdown_table(cells)


def _details(evaluation: GoldEvaluation) -> str:
    cells = [["type", "who", "precision", "recall", "F1", "found", "right", "boundary only", "type only"]]
    for row, name in enumerate(evaluation.types):
        for side in (side for side in (TEACHER, MODEL) if side in evaluation.scores):
            scores = evaluation.scores[side]
            counts = scores.counts[row, [FOUND, RIGHT, BOUNDARY_ONLY, TYPE_ONLY]]
            rates = [_percent(scores, row, rate) for rate in range(scores.rates.shape[1])]
            cells.append([name, side, *rates, *(f"{count:,}" for count in counts)])
    return markdown_table(cells)


def _percent(scores: Scores, row: int, rate: int) -> str:
    low, high = 100 * scores.intervals[row, rate]
    return f"{100 * scores.rates[row, rate]:.1f} ({low:.1f} to {high:.1f})"


def to_json(evaluation: GoldEvaluation) -> dict:
    """Returns the results as they are written to a JSON file, with rates from 0 to 1."""
    scores = {side.replace(" ", "_"): of_side.to_dict() for side, of_side in evaluation.scores.items()}
    if TEACHER in evaluation.scores:
        values, ends = f1_difference(evaluation.scores[MODEL], evaluation.scores[TEACHER])
        differences = [
            {"f1": value, "f1_interval": end} for value, end in zip(values.tolist(), ends.tolist(), strict=True)
        ]
        by_type = dict(zip(evaluation.types[1:], differences[1:], strict=True))
        scores["difference"] = {ALL: differences[0], "types": by_type}
    return {
        "file": str(evaluation.gold.path),
        "num_rows": len(evaluation.gold.texts),
        "maps": evaluation.maps,
        "left_out": evaluation.left_out,
        "scores": scores,
    }


def _check_map(mapping: dict[str, str], golds: list[GoldFile], sides: dict[str, Finder]) -> None:
    known = {name for side in (*golds, *sides.values()) for name in side.types}
    if unknown := sorted(set(mapping) - known):
        raise ValueError(f"--map names the types {unknown}, which nobody has; there are {sorted(known)}.")


def main(argv: list[str] | None = None, *, prog: str = "mtsbert evaluate-entities") -> None:
    default_map = " ".join(f"{own}={common}" for own, common in COMMON_TYPES.items())
    parser = argparse.ArgumentParser(
        prog=prog, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    finder = f"mtsbert checkpoint (a folder or a Hub id), or {SPACY_PREFIX}NAME for an installed spaCy pipeline."
    parser.add_argument("--model", required=True, help=finder)
    parser.add_argument("--teacher", help=f"The teacher whose entities the model learned: {finder}")
    parser.add_argument(
        "--gold",
        required=True,
        nargs="+",
        type=Path,
        metavar="FILE",
        help="Files with gold entities, each reported separately: .bio or .conll (one word and its tag per line, "
        "empty lines between sentences), or .jsonl or .parquet with the columns text and entities.",
    )
    parser.add_argument(
        "--map",
        nargs="+",
        metavar="TYPE=COMMON",
        help=f"Maps the entity types of all label sets to common types. Default: {default_map}",
    )
    parser.add_argument(
        "--normalize",
        action="store_true",
        help="Strip a leading the, a or an and a trailing 's from all entities, gold and predicted, before comparing.",
    )
    parser.add_argument(
        "--rows",
        choices=ROWS,
        help="Only use sentences with an even (odd) number, counted from 0: tune on one half, report on the other.",
    )
    parser.add_argument(
        "--tag_scheme", choices=TAG_SCHEMES, default="bio", help="Tag scheme of the files. Default: bio"
    )
    parser.add_argument("--task", help="The checkpoint's token task. Required if it has several.")
    add_precision_option(parser)
    parser.add_argument(
        "--min_score",
        type=float,
        help="Leave out entities of the model whose tags have a lower mean probability. Choose it on one file, report "
        "on another, and set it as `min_score` of the task. Default: the checkpoint's",
    )
    parser.add_argument(
        "--num_resamples", type=int, default=1_000, help="Bootstrap samples for the intervals. Default: %(default)s"
    )
    parser.add_argument("--seed", type=int, default=42, help="Seed of the bootstrap samples. Default: %(default)s")
    parser.add_argument("--json", type=Path, metavar="FILE", help="Also write all results to this file.")
    args = parser.parse_args(argv)
    if args.num_resamples < 1:
        raise ValueError(f"--num_resamples is {args.num_resamples}; it must be at least 1.")
    if args.min_score is not None and not 0.0 <= args.min_score <= 1.0:
        raise ValueError(f"--min_score is {args.min_score}; it must lie in [0, 1].")
    if args.min_score is not None and args.model.startswith(SPACY_PREFIX):
        raise ValueError(f"--min_score is for checkpoints; {args.model} gives no scores.")
    if args.json is not None:
        check_new_file(args.json)
    golds = [read_gold(path, rows=args.rows, tag_scheme=args.tag_scheme) for path in args.gold]
    settings = {"task": args.task, "precision": args.precision}
    names = {TEACHER: args.teacher, MODEL: args.model}
    sides = {} if args.teacher is None else {TEACHER: load_finder(args.teacher, **settings)}
    sides[MODEL] = load_finder(args.model, **settings, min_score=args.min_score)
    mapping = COMMON_TYPES
    if args.map is not None:
        mapping = parse_map(args.map)
        _check_map(mapping, golds, sides)
    options = {"normalize": args.normalize, "num_resamples": args.num_resamples, "seed": args.seed}
    evaluations = []
    for gold in golds:
        evaluations.append(evaluate(gold, sides, mapping, **options))
        sys.stdout.write(in_words(evaluations[-1]) + "\n")
    if args.json is not None:
        report = {
            **names,
            **options,
            "min_score": args.min_score,
            "rows": args.rows,
            "gold": [to_json(evaluation) for evaluation in evaluations],
        }
        write_json(args.json, report)
