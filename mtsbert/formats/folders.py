"""Reads datasets that are folders: Parquet files by split, or what `save_to_disk` wrote."""

import re
from collections.abc import Iterator
from pathlib import Path

from datasets import Dataset, DatasetDict, load_from_disk

from mtsbert.formats.parquet import num_rows, read_parquet_files


SPLIT_WORDS = {"train", "training", "validation", "valid", "val", "dev", "development", "eval", "evaluation", "test"}


def read_folder(folder: Path, splits: dict[str, str]) -> DatasetDict:
    """Reads a folder of Parquet files named after their splits, as `data_prep` and the Hub write them.

    Args:
        folder (`Path`): The folder.
        splits (`dict[str, str]`): `train`, `validation` or `test` → how the file names begin.

    Raises:
        `ValueError`: If there is no row in a split, or a name like `train_dev.parquet` says two things.
    """
    files = _files_of(folder, splits)
    files = {split: [path for path in paths if num_rows(path)] for split, paths in files.items() if paths}
    if empty := [split for split, paths in files.items() if not paths]:
        raise ValueError(f"folder {folder} has no row in its files of split {empty[0]!r}.")
    if not files:
        raise ValueError(
            f"folder {folder} has no {' or '.join(f'{stem}*.parquet' for stem in splits.values())} in it. "
            "Name single files under 'files'."
        )
    # Not `load_dataset(folder)`, which reads all files by the features of the first one; and if the dataset card has a
    # `configs` section, datasets 5.2 uses only the folder's name and this section as its cache key.
    return DatasetDict({split: read_parquet_files(paths) for split, paths in files.items()})


def visible(folder: Path, pattern: str) -> Iterator[Path]:
    """Yields what is in a folder but hidden nowhere in it, as the copies of editors and unfinished output are."""
    for path in folder.glob(pattern):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            yield path


def _files_of(folder: Path, splits: dict[str, str]) -> dict[str, list[Path]]:
    """The files of each split: those whose names begin like it, and not like another one with a longer name."""
    files: dict[str, list[Path]] = {split: [] for split in splits}
    found = {path for stem in splits.values() for path in visible(folder, f"**/{stem}*.parquet")}
    for path in sorted(found):
        begins = [stem for stem in splits.values() if path.match(f"{stem}*")]
        stem = max(begins, key=len)
        rest = path.stem.removeprefix(Path(stem).name)  # of a stem that may have folders in it
        if others := SPLIT_WORDS & set(re.split(r"[^a-z]+", rest.lower())):
            raise ValueError(
                f"{path} may be of split {stem!r} or of {min(others)!r}. Say under 'splits' how the names of each "
                "split begin, or name the files under 'files'."
            )
        for split, named in splits.items():
            if named == stem:
                files[split].append(path)
    return files


def of_one_split(path: Path, splits: dict[str, str]) -> list[str]:
    """The splits to which a file or folder with a single split belongs. That split is called `train`."""
    if not (found := [split for split, named in splits.items() if named == "train"]):
        raise ValueError(f"{path} has one split, 'train', and 'splits' names {list(splits.values())}.")
    return found


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk` of a `Dataset` or `DatasetDict`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path, splits: dict[str, str]) -> DatasetDict:
    """Reads a folder written by `save_to_disk`. A single `Dataset` is a split called `train`.

    Args:
        folder (`Path`): The folder.
        splits (`dict[str, str]`): `train`, `validation` or `test` → the name of the split in the folder.
    """
    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # the errors of pyarrow and datasets for broken files share no base class
        raise ValueError(f"{folder} cannot be read ({type(error).__name__}: {error}).") from None
    if isinstance(saved, Dataset):
        return DatasetDict({split: saved for split in of_one_split(folder, splits)})
    found = DatasetDict({split: saved[named] for split, named in splits.items() if named in saved})
    if not found:
        raise ValueError(f"{folder} has none of the splits {list(splits.values())}; it has {list(saved)}.")
    return found
