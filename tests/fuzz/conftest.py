"""How many inputs are tried, and the folder for them, which also contains the cache of `datasets`."""

import itertools

import datasets
import pytest
from hypothesis import HealthCheck, settings


NUM_INPUTS = 100  # of each kind and each format

fuzz = settings(
    max_examples=NUM_INPUTS,
    deadline=None,  # the watchdog of `outcome_of` knows hangs
    derandomize=True,  # the same inputs each time; `benchmarks/faults/fuzz.py` tries others
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        datasets.disable_progress_bars()
        yield folder
        datasets.enable_progress_bars()


@pytest.fixture(scope="session")
def path_of(folder):
    """Gives a new path in the folder for each input: `datasets` takes files of one name for one file."""
    numbers = itertools.count()
    return lambda suffix: folder / f"{next(numbers)}{suffix}"
