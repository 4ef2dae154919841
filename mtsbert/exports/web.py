"""Writes a page that answers in a browser, beside an ONNX export: model, tokenizer, runtime, and nothing to install.

The page and its modules are in `mtsbert/exports/browser`. The runtime is onnxruntime-web, whose files are copied into
the folder, so that the page asks no other server for anything.
"""

import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from base64 import b64encode
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HOME
from transformers import PreTrainedTokenizerBase

from configuration_mtsbert import PAIR_CLASSIFICATION, PAIR_TYPES
from mtsbert.letter_case.tokenizer import strips_accents
from pipeline_mtsbert import MAX_OVERLAP, MTSBertPipeline


PAGE = Path(__file__).parent / "browser"
SETTINGS_FILE = "browser.json"  # what the page knows about model and tokenizer
RUNTIME_FOLDER = "onnxruntime"
RUNTIME = "onnxruntime-web@1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="  # as npm gives it
RUNTIME_FILES = {  # in the package → in the folder: many servers do not know that .mjs is JavaScript
    "ort.wasm.min.mjs": "ort.wasm.min.js",
    "ort-wasm-simd-threaded.mjs": "ort-wasm-simd-threaded.js",
    "ort-wasm-simd-threaded.wasm": "ort-wasm-simd-threaded.wasm",
}
OF_TASKS = (
    *("type", "labels", "multi_label", "score_range"),
    *("temperature", "smoothing", "platt", "thresholds", "min_score"),
)


def write_page(settings: dict[str, Any], folder: Path, runtime: Path) -> None:
    """
    Writes the page into the folder of an ONNX export.

    Args:
        settings (`dict[str, Any]`): What the page knows, from [`page_settings`].
        folder (`Path`): The export.
        runtime (`Path`): The package of the runtime, from [`fetch_runtime`].
    """
    for file in PAGE.iterdir():
        shutil.copyfile(file, folder / file.name)
    (folder / RUNTIME_FOLDER).mkdir()
    with tarfile.open(runtime) as package:
        for name, copied in RUNTIME_FILES.items():
            (folder / RUNTIME_FOLDER / copied).write_bytes(package.extractfile(f"package/dist/{name}").read())
    (folder / SETTINGS_FILE).write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")


def page_settings(pipeline: MTSBertPipeline) -> dict[str, Any]:
    """What the page needs to know of a checkpoint. Raises `ValueError` as [`tokenizer_settings`]."""
    config = pipeline.model.config
    return {
        "tokenizer": tokenizer_settings(pipeline),
        "normalize": config.normalize,
        "has_pairs": any(task["type"] == PAIR_CLASSIFICATION for task in config.tasks.values()),
        "pair_types": list(PAIR_TYPES),
        "tasks": {
            name: {key: task[key] for key in OF_TASKS if task.get(key) is not None}
            for name, task in config.tasks.items()
        },
    }


def tokenizer_settings(pipeline: MTSBertPipeline) -> dict[str, Any]:
    """
    What the page needs to tokenize.

    Raises:
        `ValueError`: for a tokenizer that the page cannot stand in for. It knows only BERT's, since no library on npm
            says where in its text a token is.
    """
    tokenizer = pipeline.tokenizer
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kinds = {name: (parts[name] or {}).get("type") for name in ("normalizer", "pre_tokenizer", "model")}
    if kinds != {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer", "model": "WordPiece"}:
        raise ValueError(f"The page in a browser can tokenize as BERT does, not as this tokenizer does: {kinds}.")
    # Those that take in the white space beside them (`lstrip`) are found all the same: words are cut there anyway.
    added = [token for token in parts["added_tokens"] if not (token["special"] and tokenizer.split_special_tokens)]
    if left := [token["content"] for token in added if token["single_word"] or token["normalized"]]:
        raise ValueError(
            f"The page in a browser cannot find the added tokens {left}, which are looked for in normalized texts or "
            "as whole words. Special tokens, and those added with `AddedToken(…, normalized=False)`, can be found."
        )
    model, normalizer = parts["model"], parts["normalizer"]
    prefix, suffix = _around(tokenizer)
    return {
        "vocabulary": model["vocab"],
        "unknown": model["vocab"][model["unk_token"]],
        "continuing": model["continuing_subword_prefix"],
        "most_characters": model["max_input_chars_per_word"],
        "added": {token["content"]: token["id"] for token in added},
        "clean_text": normalizer["clean_text"],
        "handle_chinese_chars": normalizer["handle_chinese_chars"],
        "strip_accents": strips_accents(normalizer),
        "lowercase": normalizer["lowercase"],
        "prefix": prefix,
        "suffix": suffix,
        "max_length": pipeline.max_length,
        "overlap": min(MAX_OVERLAP, (pipeline.max_length - len(prefix) - len(suffix)) // 4),
    }


def _around(tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], list[int]]:
    """The ids of the special tokens before and after a text."""
    encoded = tokenizer("a", return_special_tokens_mask=True)
    first = encoded["special_tokens_mask"].index(0)
    last = len(encoded["special_tokens_mask"]) - encoded["special_tokens_mask"][::-1].index(0)
    return encoded["input_ids"][:first], encoded["input_ids"][last:]


def fetch_runtime() -> Path:
    """
    Gets the package of the runtime by npm, from the registry that npm is set up for, and keeps it for the next export.

    Raises:
        `ValueError`: if npm is not installed, or fails, or brings something else than the release that was tested.
    """
    path = Path(HF_HOME) / "mtsbert" / f"{RUNTIME.replace('@', '-')}.tgz"
    if path.is_file() and _sha512(path) == SHA512:
        return path
    npm = shutil.which("npm")
    if npm is None:
        raise ValueError(f"A page in a browser needs {RUNTIME}, which npm brings; npm is not installed.")
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run([npm, "pack", RUNTIME], cwd=folder, capture_output=True, text=True)
        packages = list(Path(folder).glob("*.tgz"))
        if done.returncode or not packages:
            raise ValueError(f"`npm pack {RUNTIME}` has failed: {done.stderr.strip()[-500:]}")
        if (found := _sha512(packages[0])) != SHA512:
            raise ValueError(f"npm brought another {RUNTIME} than the one that was tested: its sha512 is {found}.")
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(packages[0], path)
    return path


def _sha512(path: Path) -> str:
    return b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
