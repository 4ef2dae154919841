"""Names of what is computed from a dataset, so that `datasets` finds it in its cache the next time."""

import hashlib
import inspect
import json
from pathlib import Path

from datasets import Dataset

from entities_mtsbert import spans_to_tags


FOLDER = Path(__file__).parent
CODE = (FOLDER / "examples.py", FOLDER / "features.py", Path(inspect.getfile(spans_to_tags)))


def fingerprint_of(rows: Dataset, *settings) -> str:
    """Of what our code makes of rows, by settings that JSON can hold; another version of the code has another name."""
    digest = hashlib.sha256(rows._fingerprint.encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for file in CODE:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
