"""Names of what is computed from a dataset, so that `datasets` finds it in its cache the next time."""

import hashlib
import json
from pathlib import Path

from datasets import Dataset

from . import model_files


ROOM = Path(__file__).parent
CODE = (ROOM / "examples.py", ROOM / "features.py", Path(model_files.__file__))


def fingerprint_of(rows: Dataset, *settings) -> str:
    """Of what our code makes of rows, by settings that JSON can hold; another version of the code has another name."""
    digest = hashlib.sha256(rows._fingerprint.encode())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    for file in (*CODE, Path(model_files.spans_to_tags.__code__.co_filename)):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]
