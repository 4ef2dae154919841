"""Compares adapters (LoRA) with full fine-tuning: seconds and memory of training, and what it costs each task.

python benchmarks/adapters.py --config recipes/ag_news_minilm.yaml --rows 8000 --seeds 42

As in adaptive_freezing.py, the ways take turns, without `embedding_distillation` and `num_task_layers`. Adapters start
from nothing and need a higher learning rate than the weights of the encoder. `everywhere` puts them beside all linear
layers instead of queries and values alone, and they learn three times as fast there.
"""

from adaptive_freezing import compare


RATE = "--learning_rate=1e-3"
WAYS = {
    "lora_8": ["--lora_r=8", RATE],
    "lora_8_everywhere": ["--lora_r=8", "--lora_target=all-linear", "--learning_rate=3e-3"],
    "lora_32": ["--lora_r=32", "--lora_alpha=64", RATE],
    "bitfit": ["--bitfit", RATE],
}


if __name__ == "__main__":
    compare("adapters", WAYS, __doc__)
