"""Fixture for a folder with the inputs, which also contains the cache of `datasets`."""

import datasets
import pytest


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", str(folder / "cache"))
        datasets.disable_progress_bars()
        yield folder
        datasets.enable_progress_bars()
