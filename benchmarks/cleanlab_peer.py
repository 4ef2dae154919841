"""Looks for wrong labels with cleanlab; `benchmarks/audit.py` runs this in cleanlab's own environment.

Takes one argument, an .npz file with `embeddings` `(N, H)` and `labels` `(N,)`. Writes JSON: the `seconds` that it
took, and the `order` of the rows, the most suspicious first.
"""

import json
import sys
import time

import numpy as np
from cleanlab.classification import CleanLearning


def main() -> None:
    given = np.load(sys.argv[1])
    began = time.perf_counter()
    issues = CleanLearning(seed=42).find_label_issues(given["embeddings"], given["labels"])  # a logistic regression
    order = np.argsort(issues["label_quality"].to_numpy(), kind="stable")
    answer = {"seconds": time.perf_counter() - began, "order": order.tolist()}
    sys.stdout.write(f"\n{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
