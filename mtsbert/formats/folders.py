"""Reads datasets that are folders: Parquet files by split, or what `save_to_disk` wrote."""

from pathlib import Path

from datasets import Dataset, DatasetDict, load_from_disk

from mtsbert.formats.parquet import num_rows, read_parquet_files


def read_folder(folder: Path, splits: dict[str, str]) -> DatasetDict:
    """Reads a folder of Parquet files named after their splits, as `data_prep` and the Hub write them.

    Args:
        folder (`Path`): The folder.
        splits (`dict[str, str]`): `train`, `validation` or `test` → how the file names begin.
    """
    files = {split: sorted(folder.glob(f"**/{stem}*.parquet")) for split, stem in splits.items()}
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


def is_saved(folder: Path) -> bool:
    """Whether the folder was written by `save_to_disk` of a `Dataset` or `DatasetDict`."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def read_saved(folder: Path, splits: dict[str, str]) -> DatasetDict:
    """Reads a folder written by `save_to_disk`. A single `Dataset` becomes the training split.

    Args:
        folder (`Path`): The folder.
        splits (`dict[str, str]`): `train`, `validation` or `test` → the name of the split in the folder.
    """
    try:
        saved = load_from_disk(str(folder))
    except Exception as error:  # the errors of pyarrow and datasets for broken files share no base class
        raise ValueError(f"{folder} cannot be read ({type(error).__name__}: {error}).") from None
    if isinstance(saved, Dataset):
        return DatasetDict({"train": saved})
    found = DatasetDict({split: saved[named] for split, named in splits.items() if named in saved})
    if not found:
        raise ValueError(f"{folder} has none of the splits {list(splits.values())}; it has {list(saved)}.")
    return found
