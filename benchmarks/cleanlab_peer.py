"""Looks for wrong labels with cleanlab; `benchmarks/audit.py` runs this in cleanlab's own environment.

Takes one argument, an .npz file with `embeddings` `(N, H)` and `labels` `(N,)`; or with `probabilities` `(T, C)` and
`tags` `(T,)` of tokens, and `ends` `(N,)` of the texts that they are in. Writes JSON: the `seconds` that it took, and
the `order` of the rows, the most suspicious first.
"""

import json
import sys
import time

import numpy as np
from cleanlab.classification import CleanLearning
from cleanlab.token_classification.rank import get_label_quality_scores


def main() -> None:
    given = np.load(sys.argv[1])
    began = time.perf_counter()
    if "tags" in given:
        tags, probabilities = (np.split(given[name], given["ends"][:-1]) for name in ("tags", "probabilities"))
        quality, _ = get_label_quality_scores([part.tolist() for part in tags], probabilities)
    else:  # a logistic regression
        issues = CleanLearning(seed=42).find_label_issues(given["embeddings"], given["labels"])
        quality = issues["label_quality"].to_numpy()
    order = np.argsort(quality, kind="stable")
    answer = {"seconds": time.perf_counter() - began, "order": order.tolist()}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
