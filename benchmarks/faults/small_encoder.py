"""A tiny BERT with random weights, for tests of speed and robustness that do not depend on quality."""

from collections.abc import Sequence
from pathlib import Path

from transformers import BertConfig, BertModel, BertTokenizer, set_seed


def save_encoder(folder: Path, texts: Sequence[str], *, vocab_size: int, num_layers: int) -> None:
    """
    Saves a tiny encoder with random weights, and a tokenizer trained on the texts.

    Args:
        folder (`Path`): The folder to write.
        texts (`Sequence[str]`): The texts to train the tokenizer on.
        vocab_size (`int`): The size of the vocabulary.
        num_layers (`int`): The number of encoder layers.
    """
    tokenizer = BertTokenizer().train_new_from_iterator(texts, vocab_size=vocab_size, show_progress=False)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    set_seed(0)
    encoder = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    BertModel(encoder).save_pretrained(folder)
