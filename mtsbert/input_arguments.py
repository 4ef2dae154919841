"""Defines what a run starts from and what it reads, as dataclasses. The help texts are the manual."""

from dataclasses import dataclass, field
from typing import Any

from mtsbert.settings import parse_mapping, spelled_out


ERROR, SKIP = "error", "skip"
BAD_ROWS = (ERROR, SKIP)
MAX_LENGTH = 128  # tokens; longer texts are truncated in training


@dataclass
class ModelArguments:
    """Arguments for the model that a run starts from."""

    _argument_group_name = "model"

    encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Pretrained encoder to start from: a Hub id, a folder, or 'package:NAME/FOLDER' for weights that "
            "ship inside an installed Python package. The heads are newly initialized."
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "mtsbert checkpoint to continue from: a Hub id or a folder. Encoder, heads, tasks and labels are "
            "taken from it, and --encoder_name_or_path is ignored."
        },
    )
    num_layers: int | None = field(
        default=None,
        metadata={
            "help": "Keep this many layers of the encoder, evenly spaced and with the last one, for a smaller and "
            "faster model (default: all of them). `mtsbert distill` sets it."
        },
    )
    pooling: str | None = field(
        default=None,
        metadata={
            "help": "How token states are pooled: mean, cls or max. Default: what sentence-transformers has saved "
            "with the encoder, otherwise mean. Only for a new model."
        },
    )
    normalize: bool | None = field(
        default=None,
        metadata={
            "help": "Scale the sentence embedding to length 1. Default: what sentence-transformers has saved with the "
            "encoder, otherwise True. Only for a new model."
        },
    )
    embedding_size: int | None = field(
        default=None,
        metadata={
            "help": "Size of the sentence embedding: that many of the first numbers of the pooled state, best trained "
            "with matryoshka_dims (default: all of them). Only for a new model; see `mtsbert edit` for others."
        },
    )
    head_dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout probability before each classification layer (default: 0.1). Only for a new model."
        },
    )
    encoder_dropout: float | None = field(
        default=None,
        metadata={
            "help": "Dropout probability inside the encoder, wherever it has dropout (default: what its config says, "
            "0.1 as a rule). 0 keeps the sentence embedding nearest where it started, and trains fastest."
        },
    )
    num_task_layers: int | None = field(
        default=None,
        metadata={
            "help": "Give the tasks on single texts copies of the encoder's top N layers, which start from its "
            "weights, so that the encoder's own top layers serve the sentence embedding alone (default: 0). Costs "
            "their part of a second pass. Only for a new model."
        },
    )

    letter_case: bool = field(
        default=False,
        metadata={
            "help": "Let an encoder that was pretrained on text in lower case read capital letters, which tell "
            "entities apart from other words: a capitalised word gets the embedding of the word plus a vector that is "
            "learned. Only for a new model whose tokenizer is made of word pieces."
        },
    )

    def __post_init__(self):
        if self.encoder_name_or_path is None and self.model_name_or_path is None:
            raise ValueError("Name what to start from: `encoder_name_or_path` (new heads) or `model_name_or_path`.")
        if self.encoder_dropout is not None and not 0.0 <= self.encoder_dropout < 1.0:
            raise ValueError(f"`encoder_dropout` is {self.encoder_dropout}; it must lie in [0, 1).")

    @property
    def new_model_settings(self) -> dict[str, Any]:
        """The settings for a new model that were set explicitly. The config provides the defaults of the others."""
        settings = {"pooling": self.pooling, "normalize": self.normalize, "head_dropout": self.head_dropout}
        settings |= {"embedding_size": self.embedding_size, "num_task_layers": self.num_task_layers}
        settings |= {"letter_case": self.letter_case or None}
        return {name: value for name, value in settings.items() if value is not None}


@dataclass
class DataArguments:
    """Arguments for the tasks and the data they are learned from."""

    _argument_group_name = "data"

    tasks: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping from task name to {type, ...}. The types are sequence_classification, "
            "sequence_regression, token_classification, pair_classification, pair_similarity (needs score_range) "
            "and pair_ranking (which learns from pairs without labels). If labels is left out, the labels come from "
            "the data: the names of a ClassLabel column, or all values found, sorted. The labels of a token task are "
            "its entity types. Optional keys: hidden_size, class_weights, pos_weight, label_smoothing, multi_label, "
            "soft_labels, min_score, score_range, loss (focal; mse or cosent), focal_gamma, scale. On the command "
            "line: JSON."
        },
    )
    datasets: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping from a name of your choice to {path, columns} or {files, columns}. path: a prepared "
            "folder, a Hub id, or a single file (training split). files: split -> .parquet, .csv, .tsv, .json, "
            ".jsonl, .spacy, .bio or .conll file. columns: column -> 'text', 'text_pair', 'text_negative' or a task. "
            "Optional keys: splits (train, validation or test -> the dataset's own name), tag_scheme (bio, iob1, "
            "bioes, bilou), quoting (of .csv and .tsv), conll_columns ({tokens: 1, tags: -1}), conll_comments, "
            "separator (between several labels in a cell), label_columns (task -> columns of zeros and ones), "
            "label_map (task -> label in the files -> its name, or null for none) and gold (true if people made the "
            "labels: its validation rows then decide alone). On the command line: JSON."
        },
    )
    prepare: dict | str | None = field(
        default=None,
        metadata={
            "help": "Options of `python -m data_prep` as a mapping (source, spacy_model, output ...; nli and output, "
            "for a ranking; pairs_of and output, for pairs of news). The dataset is built before training if its "
            "output folder does not exist yet."
        },
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Maximum number of tokens per text in training and evaluation. Longer texts are truncated, and "
            "their number is reported. Default: 128, or what the encoder reads (its tokenizer's limit, or its "
            "max_seq_length in sentence-transformers) if that is less."
        },
    )
    bad_rows: str = field(
        default=ERROR,
        metadata={
            "help": "What to do with a row that cannot be used (unreadable, no text, a span outside the text, an "
            "unknown label ...): error stops before training and names the row; skip leaves it out and writes it, "
            "with the reason, to skipped_rows.jsonl in the output folder."
        },
    )
    check_data: bool = field(
        default=False,
        metadata={
            "help": "Only read the data and print a report for each task: rows, labels, lengths, what is truncated "
            "or does not align with tokens, and three examples."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Train on at most this many rows of each dataset, for a quick test. The same random rows are "
            "drawn every time."
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on at most this many rows of each validation split."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Predict at most this many rows of each test split."}
    )

    def __post_init__(self):
        self.tasks = spelled_out(parse_mapping(self.tasks, "tasks"))
        self.datasets = parse_mapping(self.datasets, "datasets")
        self.prepare = parse_mapping(self.prepare, "prepare")
        if not self.datasets:
            raise ValueError("The recipe names no `datasets`.")
        if self.bad_rows not in BAD_ROWS:
            raise ValueError(f"`bad_rows` is {self.bad_rows!r}; allowed are {list(BAD_ROWS)}.")
        for name in ("max_length", "max_train_samples", "max_eval_samples", "max_predict_samples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"`{name}` is {value}; it must be at least 1.")

    @property
    def max_samples(self) -> dict[str, int | None]:
        """The maximum number of rows for each split."""
        return {
            "train": self.max_train_samples,
            "validation": self.max_eval_samples,
            "test": self.max_predict_samples,
        }
