"""Word embeddings in which a word with capital letters is the word in lower case and a vector."""

import logging

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from modeling_mtsbert import MTSBertModel
from mtsbert.letter_case.tokenizer import CAPITALISED, CAPITALS, LOWER, cased_words, with_letter_case


logger = logging.getLogger(__name__)

WAYS = (CAPITALISED, CAPITALS)  # those that have a vector
HIDDEN_IN = 8  # one text in so many is learned without its capitals, for texts that have none or nothing else


def read_letter_case(model: MTSBertModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """
    Prepares a model with `letter_case` in its config for training, and returns the tokenizer for it. Others stay as
    they are.

    Args:
        model ([`MTSBertModel`]): The model; changed in place, unless it has been before. It computes what it computed.
        tokenizer (`PreTrainedTokenizerBase`): That of its encoder, or of a checkpoint with `letter_case`.

    Raises:
        `ValueError`: for a tokenizer that cannot be made to read capital letters, or is not the checkpoint's.
    """
    if not has_letter_case(model):
        return tokenizer
    tokenizer = with_letter_case(tokenizer)
    table = model.get_input_embeddings()
    if not isinstance(table, CaseEmbedding):
        num_words = max(tokenizer.get_vocab().values()) + 1
        if table.num_embeddings >= num_words and table.num_embeddings != num_words + len(WAYS):
            raise ValueError(
                f"The model has {table.num_embeddings} embeddings, and with `letter_case` it would have "
                f"{num_words + len(WAYS)}, for {num_words} words and {len(WAYS)} vectors. Give it the tokenizer and "
                "the embeddings that it was saved with."
            )
        model.set_input_embeddings(CaseEmbedding(table, num_words, cased_words(tokenizer)))
        model.config.encoder_config.vocab_size = num_words + len(WAYS)
        model.encoder.config.vocab_size = num_words + len(WAYS)
    return tokenizer


def has_letter_case(model: MTSBertModel) -> bool:
    return getattr(model.config, "letter_case", False)


def case_vectors(model: MTSBertModel) -> list[nn.Parameter]:
    """The vectors for capital letters, `(2, H)`, in a list that is empty for a model without them."""
    table = model.get_input_embeddings()
    return [table.cases] if isinstance(table, CaseEmbedding) else []


def warn_of_frozen_cases(model: MTSBertModel) -> None:
    """Warns of a model whose vectors for capital letters are zeros and stay so."""
    if any(not cases.requires_grad and not cases.any() for cases in case_vectors(model)):
        logger.warning("The embeddings are frozen, so that nothing is learned of capital letters (`letter_case`).")


class CaseEmbedding(nn.Module):
    """
    Embeddings of words, of which those with capital letters are no parameters of their own.

    In a state dict it is the table of an `nn.Embedding`, with the two vectors as its last rows, so that a checkpoint
    opens everywhere and training goes on from it exactly.

    Args:
        table (`nn.Embedding`): Embeddings of the words in lower case, or a table as in a state dict of this class.
        num_words (`int`): Number of words, with those in capital letters.
        cased (`list[tuple[int, int, int]]`): From [`cased_words`].
    """

    def __init__(self, table: nn.Embedding, num_words: int, cased: list[tuple[int, int, int]]):
        super().__init__()
        word, way = torch.arange(num_words), torch.zeros(num_words, dtype=torch.long)
        for id_, lower, written in cased:
            word[id_], way[id_] = lower, written
        device, width = table.weight.device, table.embedding_dim
        self.padding_idx, self.embedding_dim = table.padding_idx, width
        self.num_embeddings = num_words + len(WAYS)
        self.register_buffer("word", word.to(device), persistent=False)
        self.register_buffer("way", way.to(device), persistent=False)
        self.words = nn.Parameter(table.weight.new_empty(int(word.max()) + 1, width))
        self.cases = nn.Parameter(table.weight.new_zeros(len(WAYS), width))
        self._fill(table.weight.detach())
        self.requires_grad_(table.weight.requires_grad)  # what a user froze stays frozen

    @torch.no_grad()
    def _fill(self, rows: torch.Tensor) -> None:
        self.words.copy_(rows[: len(self.words)])
        if len(rows) == self.num_embeddings:
            self.cases.copy_(rows[-len(WAYS) :])

    @property
    def weight(self) -> torch.Tensor:
        """The whole table `(num_embeddings, H)`."""
        return torch.cat([self._rows(self.word, self.way), self.cases])

    def _rows(self, word: torch.Tensor, way: torch.Tensor) -> torch.Tensor:
        vectors = F.pad(self.cases, (0, 0, CAPITALISED - LOWER, 0))
        return F.embedding(word, self.words, self.padding_idx) + F.embedding(way, vectors)

    def forward(self, ids: torch.LongTensor) -> torch.Tensor:
        word, way = self.word[ids], self.way[ids]
        if self.training:  # which texts does not depend on their batch, nor on a generator of random numbers
            padding = 0 if self.padding_idx is None else self.padding_idx
            way = way * ((word - padding).sum(-1, keepdim=True) % HIDDEN_IN > 0)
        return self._rows(word, way)

    def _save_to_state_dict(self, destination: dict, prefix: str, keep_vars: bool) -> None:
        table = self.weight
        destination[f"{prefix}weight"] = table if keep_vars else table.detach()

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *others) -> None:
        rows = state_dict.get(f"{prefix}weight")
        if rows is None or rows.shape != (self.num_embeddings, self.embedding_dim):
            super()._load_from_state_dict(state_dict, prefix, *others)  # says what is missing
            return
        self._fill(rows)
