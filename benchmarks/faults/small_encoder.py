"""A BERT of a few thousand weights, all random: what a run costs and survives does not depend on what it knows."""

from collections.abc import Sequence
from pathlib import Path

from transformers import BertConfig, BertModel, BertTokenizer, set_seed


def save_encoder(folder: Path, texts: Sequence[str], *, vocab_size: int, num_layers: int) -> None:
    """Writes it, and a tokenizer that has learned its word pieces from the texts."""
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
