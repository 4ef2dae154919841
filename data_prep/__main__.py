"""`python -m data_prep`: news in, a labelled dataset folder out."""

import argparse
import shlex
import sys

from huggingface_hub import HfApi

from .build import DEFAULT_SOURCE, DEFAULT_SPACY_MODEL, build_dataset
from .hub import check_push
from .ray_workers import ENGINES, LOCAL


def main(argv: list[str] | None = None, *, prog: str = "python -m data_prep") -> None:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Cleans news, labels named entities with spaCy, and writes a Parquet dataset with a card.",
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
        "--spacy_model",
        nargs="+",
        default=DEFAULT_SPACY_MODEL,
        metavar="NAME",
        help="The spaCy pipeline that labels. Several vote, and what they do not agree on is left open: an entity "
        "whose label is null, of which nothing is learned. Default: %(default)s",
    )
    parser.add_argument("--output", required=True, help="The dataset folder to write.")
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default=LOCAL,
        help="Where texts are labelled: on this machine, or by workers on the Ray cluster that RAY_ADDRESS names "
        "(without it, on one of this machine alone), of which any may die. Default: %(default)s",
    )
    parser.add_argument(
        "--num_proc", type=int, default=1, help="Processes, or Ray workers, to label with. Default: %(default)s"
    )
    parser.add_argument("--max_rows", type=int, help="At most so many rows of each split. Default: all")
    parser.add_argument(
        "--validation_share",
        type=float,
        default=0.0,
        help="Where the source has no validation split, the share of its training rows to hold out as one.",
    )
    parser.add_argument(
        "--truecase_headlines",
        action="store_true",
        help="Label Headlines That Capitalise Their Words as if they were written like sentences.",
    )
    parser.add_argument("--overwrite", action="store_true", help="Replace the output folder if it is not empty.")
    parser.add_argument(
        "--push_to_hub",
        metavar="ID",
        help="Upload the finished folder as this dataset. The token comes from HF_TOKEN or `hf auth login`.",
    )
    args = vars(parser.parse_args(argv))
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


def push(folder: str, repo_id: str) -> None:
    """Uploads a dataset folder as it is."""
    api = HfApi()
    try:
        api.create_repo(repo_id, repo_type="dataset", exist_ok=True)
        pushed = api.upload_folder(folder_path=folder, repo_id=repo_id, repo_type="dataset")
    except Exception as error:  # the Hub's errors and those of its HTTP client have no class in common
        later = shlex.join(["hf", "upload", repo_id, folder, ".", "--repo-type", "dataset"])
        sys.exit(
            f"data_prep: the push to {repo_id} failed: {error}\n\n"
            f"The dataset is whole in {folder}. To push it later: {later}"
        )
    sys.stdout.write(f"Pushed to {pushed.commit_url}\n")


if __name__ == "__main__":
    main()
