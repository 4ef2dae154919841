"""Builds a labelled dataset from news, or triplets for a ranking: `python -m data_prep`."""

import argparse
import shlex
import sys
from collections.abc import Callable

from huggingface_hub import HfApi

from .build import DEFAULT_SOURCE, DEFAULT_SPACY_MODEL, OTHER_BUILDS, build_dataset
from .hub import check_push
from .ray_workers import ENGINES, LOCAL


def main(argv: list[str] | None = None, *, prog: str = "python -m data_prep") -> None:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Cleans news, labels named entities with spaCy, and writes a Parquet dataset with a card. With "
        "--nli, makes triplets for a ranking task instead; with --pairs_of, pairs.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--source",
        default=DEFAULT_SOURCE,
        help="'sample' (the embedded news), a CSV file in AG News' format (class,title,description; no header; "
        "classes 1-4), a folder of such files (train.csv, dev.csv, test.csv), or a Hub dataset id. "
        "Default: %(default)s",
    )
    parser.add_argument(
        "--nli",
        metavar="PATH",
        help="Instead of news, natural language inference: a CSV file with the columns label, premise and hypothesis, "
        "or a folder of them (train.csv, eval.csv, test.csv). Each premise is written with a hypothesis that follows "
        "from it and one that contradicts it. Of the other options, only --output and --overwrite apply.",
    )
    parser.add_argument(
        "--pairs_of",
        metavar="SOURCE",
        help="Instead of single texts, pairs of the texts of a source: whether they have the same topic, and how many "
        "of their labels are the same. Of the other options, only --output and --overwrite apply.",
    )
    parser.add_argument(
        "--spacy_model",
        nargs="+",
        default=DEFAULT_SPACY_MODEL,
        metavar="NAME",
        help="The spaCy pipeline that labels entities. If several are given, they vote. Where they do not agree, the "
        "entity has a null label, and nothing is learned from it. Default: %(default)s",
    )
    parser.add_argument("--output", required=True, help="The dataset folder to write.")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=LOCAL,
        help="Where texts are labelled: local is this machine; ray is a set of workers on the Ray cluster at "
        "RAY_ADDRESS (if it is not set, on this machine), which are restarted if they die. Default: %(default)s",
    )
    parser.add_argument(
        "--num_proc", type=int, default=1, help="Number of processes or Ray workers. Default: %(default)s"
    )
    parser.add_argument("--max_rows", type=int, help="Maximum number of rows per split. Default: all")
    parser.add_argument(
        "--validation_share",
        type=float,
        default=0.0,
        help="Share of the training rows to hold out for validation if the source has no validation split.",
    )
    parser.add_argument(
        "--truecase_headlines",
        action="store_true",
        help="Label Headlines That Capitalise Their Words as if they were written in sentence case.",
    )
    parser.add_argument(
        "--link_share",
        type=float,
        default=0.0,
        help="Share of the training texts that get a made-up link at their end, so that a model of news does not take "
        "links for names. Default: %(default)s",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace the output folder if it is not empty.")
    parser.add_argument(
        "--push_to_hub",
        metavar="ID",
        help="Upload the finished folder to this Hub dataset, with the token from HF_TOKEN or `hf auth login`.",
    )
    args = vars(parser.parse_args(argv))
    for name, (build, made) in OTHER_BUILDS.items():
        if args[name] is not None:
            _build_other(parser, args, name, build, made)
            return
        del args[name]
    repo_id = args.pop("push_to_hub")
    try:
        if repo_id:
            check_push(repo_id, undone="nothing was built")
        provenance = build_dataset(**args)
    except ValueError as error:
        sys.exit(f"data_prep: {error}")
    counts = ", ".join(f"{count:,} {split}" for split, count in provenance.num_rows.items())
    sys.stdout.write(f"{args['output']}: {counts}; {sum(provenance.type_counts.values()):,} entities\n")
    if repo_id:
        push(args["output"], repo_id)


def _build_other(parser: argparse.ArgumentParser, args: dict, name: str, build: Callable, made: str) -> None:
    kept = (name, "output", "overwrite")
    if ignored := [key for key, value in args.items() if key not in kept and value != parser.get_default(key)]:
        ignored = ", ".join(f"--{key}" for key in ignored)
        sys.exit(f"data_prep: --{name} makes {made}, which have no use for {ignored}.")
    try:
        counts = build(**{key: args[key] for key in kept})
    except ValueError as error:
        sys.exit(f"data_prep: {error}")
    shown = ", ".join(f"{count:,} {split}" for split, count in counts.items())
    sys.stdout.write(f"{args['output']}: {shown} {made}\n")


def push(folder: str, repo_id: str) -> None:
    """Uploads a dataset folder to the Hub."""
    api = HfApi()
    try:
        api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
        pushed = api.upload_folder(folder_path=folder, repo_id=repo_id, repo_type="dataset")
    except Exception as error:  # the Hub's errors and its HTTP client's share no base class
        later = shlex.join(["hf", "upload", repo_id, folder, ".", "--repo-type", "dataset"])
        sys.exit(
            f"data_prep: the push to {repo_id} failed: {error}\n\n"
            f"The dataset is whole in {folder}. To push it later: {later}"
        )
    sys.stdout.write(f"Pushed to {pushed.commit_url}\n")


if __name__ == "__main__":
    main()
