"""Evaluates models trained on spaCy's labels, and spaCy itself, against gold entities.

python benchmarks/gold.py --models plain=runs/ag_news_minilm agreed=runs/ag_news_agreed \\
    --gold data/ner_gold/wikigold.bio data/ner_gold/btc_news.bio:odd

Reports the F1 of exact spans in percent, with and without stripping leading articles and possessives on all sides.
"""

import argparse
import json
import sys

from quality import ROOT, write_report


sys.path.insert(0, str(ROOT))

from mtsbert.commands.evaluate.entities import MODEL, TEACHER, Finder, evaluate, load_finder, to_json
from mtsbert.data.gold import COMMON_TYPES, read_gold
from mtsbert.results.entity_scores import ALL
from mtsbert.results.tables import markdown_table


OF_TRAINING = ("test_topic_accuracy", "test_ner_f1")  # the second is measured against the teacher's labels


def main() -> None:
    args = parse_arguments()
    of_training = {f"{key}_{name}": value for name, folder in args.models for key, value in results(folder).items()}
    teacher = remembering(load_finder(args.teacher))
    models = {name: remembering(load_finder(folder)) for name, folder in args.models}
    columns: dict[str, dict[str, float]] = {}  # type → whose → F1
    for place in args.gold:
        path, _, rows = place.partition(":")
        gold = read_gold(ROOT / path, rows=rows or None)
        for way, normalize in {"as it stands": False, "normalised": True}.items():
            for name, model in models.items():
                evaluation = evaluate(gold, {TEACHER: teacher, MODEL: model}, COMMON_TYPES, normalize=normalize)
                for whose, f1 in figures_of(to_json(evaluation)["scores"], name).items():
                    for type_, value in f1.items():
                        columns.setdefault(type_, {})[f"{place} {way}: {whose}"] = value
    names = list(columns[ALL])
    rows = [
        [name, *(f"{column[name]:.1f}" if name in column else "" for column in columns.values())] for name in names
    ]
    sys.stdout.write(markdown_table([["", *columns], *rows]) + "\n")
    sys.stdout.write(f"Written to {write_report('gold', None, of_training | {'table': columns})}\n")


def figures_of(scores: dict, name: str) -> dict[str, dict[str, float]]:
    """Returns the F1 in percent of a model, its teacher, and their difference, by entity type."""
    f1 = {
        side: {ALL: 100 * of["all"]["f1"]} | {type_: 100 * counts["f1"] for type_, counts in of["types"].items()}
        for side, of in scores.items()
    }
    low, high = scores["difference"][ALL]["f1_interval"]
    interval = {"95 % from": 100 * low, "95 % to": 100 * high}
    return {TEACHER: f1[TEACHER], name: f1[MODEL], f"{name} - {TEACHER}": f1["difference"] | interval}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        allow_abbrev=False, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME=FOLDER", type=name_and_folder)
    parser.add_argument("--teacher", default="spacy:en_core_web_sm", help="Default: %(default)s")
    parser.add_argument("--gold", nargs="+", required=True, metavar="FILE[:even|:odd]")
    return parser.parse_args()


def name_and_folder(text: str) -> tuple[str, str]:
    name, is_pair, folder = text.partition("=")
    if not is_pair:
        raise argparse.ArgumentTypeError(f"{text!r}: write NAME=FOLDER.")
    return name, folder


def remembering(finder: Finder) -> Finder:
    """Caches the entities found in a list of texts."""
    answers: dict[tuple[str, ...], list[list[dict]]] = {}

    def find(texts: list[str]) -> list[list[dict]]:
        if tuple(texts) not in answers:
            answers[tuple(texts)] = finder.find(texts)
        return answers[tuple(texts)]

    return Finder(finder.name, finder.types, find)


def results(folder: str) -> dict[str, float]:
    """Reads the results of `run_mtl.py --do_predict` from its output folder."""
    found = json.loads((ROOT / folder / "all_results.json").read_text())
    return {key: found[key] for key in OF_TRAINING}


if __name__ == "__main__":
    main()
