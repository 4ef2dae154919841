"""Fixtures with a checkpoint that cannot be exported, and a browser."""

import json
import shutil

import pytest
from transformers import LongformerConfig


@pytest.fixture
def untraceable(model_on, tokenizer, tmp_path):
    """A checkpoint whose encoder decides by the values of tensors what it computes."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = LongformerConfig(vocab_size=len(tokenizer), attention_window=8, max_position_embeddings=66, **sizes)
    for part in (model_on(config), tokenizer):
        part.save_pretrained(tmp_path / "untraceable")
    return tmp_path / "untraceable"


@pytest.fixture(scope="module")
def browser():
    """Chromium without a window, driven by selenium; it keeps a log of what it asks for."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if missing := [name for name, path in programs.items() if path is None]:
        pytest.skip(f"no {' and no '.join(missing)} on this machine")
    options = webdriver.ChromeOptions()
    options.binary_location = programs["chromium"]
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    with webdriver.Chrome(
        options=options, service=webdriver.ChromeService(executable_path=programs["chromedriver"])
    ) as driver:
        yield driver


@pytest.fixture
def addresses_asked(browser):
    """The addresses that the pages of the browser have asked for since the test began or the last call."""
    browser.get("about:blank")
    browser.get_log("performance")  # what the browser itself has asked for as it started, and the pages before

    def addresses() -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        return [row["params"]["request"]["url"] for row in messages if row["method"] == "Network.requestWillBeSent"]

    return addresses
