"""Everything a recipe or a flag can say, as dataclasses. The help texts are the manual."""

from dataclasses import MISSING, dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments

from mtsbert.machine import PRECISIONS, has_native_bf16
from mtsbert.settings import parse_mapping, parse_weights, spelled_out


PROPORTIONAL, TEMPERATURE, ROUND_ROBIN, WEIGHTS = "proportional", "temperature", "round_robin", "weights"
DATASET_SAMPLING = (PROPORTIONAL, TEMPERATURE, ROUND_ROBIN, WEIGHTS)
STATIC, UNCERTAINTY, DWA, FIRST_STEP = "static", "uncertainty", "dwa", "first_step"
LOSS_BALANCING = (STATIC, UNCERTAINTY, DWA, FIRST_STEP)
ERROR, SKIP = "error", "skip"
BAD_ROWS = (ERROR, SKIP)
MAX_LENGTH = 128  # tokens of a text that are read in training
FEATURE_CACHE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass
class ModelArguments:
    """What to start from."""

    _argument_group_name = "model"

    encoder_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "Pretrained encoder to start from: a Hub id, a folder, or 'package:NAME/FOLDER' for weights that "
            "lie inside an installed Python package. The heads start fresh."
        },
    )
    model_name_or_path: str | None = field(
        default=None,
        metadata={
            "help": "mtsbert checkpoint to go on from: a Hub id or a folder. Encoder, heads, tasks and labels come "
            "from it, and --encoder_name_or_path is not used."
        },
    )
    pooling: str | None = field(
        default=None,
        metadata={"help": "How token states become the embedding: mean (default), cls or max. For a new model."},
    )
    normalize: bool | None = field(
        default=None, metadata={"help": "Scale the sentence embedding to length 1 (default: True). For a new model."}
    )
    head_dropout: float | None = field(
        default=None,
        metadata={"help": "Dropout probability before every classification layer (default: 0.1). For a new model."},
    )

    def __post_init__(self):
        if self.encoder_name_or_path is None and self.model_name_or_path is None:
            raise ValueError("Name what to start from: `encoder_name_or_path` (new heads) or `model_name_or_path`.")
        if self.model_name_or_path is not None and self.new_model_settings:
            raise ValueError(
                f"{sorted(self.new_model_settings)} are settings of a new model; the checkpoint given by "
                "`model_name_or_path` has its own."
            )

    @property
    def new_model_settings(self) -> dict[str, Any]:
        """The settings of a new model that were given; the others have the defaults of the config."""
        settings = {"pooling": self.pooling, "normalize": self.normalize, "head_dropout": self.head_dropout}
        return {name: value for name, value in settings.items() if value is not None}


@dataclass
class DataArguments:
    """What to learn, and from which data."""

    _argument_group_name = "data"

    tasks: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of task name to {type, ...}; types are sequence_classification, token_classification, "
            "pair_classification and pair_similarity (with score_range). Without labels, those of the data are used: "
            "the names of a ClassLabel column, or all values found, sorted. A token task names its entity types. "
            "Optional: hidden_size, class_weights, label_smoothing, multi_label, min_score. On the command line: "
            "JSON."
        },
    )
    datasets: dict | str | None = field(
        default=None,
        metadata={
            "help": "Mapping of a name of your choice to {path, columns} or {files, columns}. path: a prepared "
            "folder, a Hub id, or one file (train). files: split -> .parquet, .csv, .tsv, .jsonl, .bio or .conll. "
            "columns: column -> 'text', 'text_pair' or a task. Also splits (our name -> its name) and tag_scheme "
            "(bio, iob1, bioes). On the command line: JSON."
        },
    )
    prepare: dict | str | None = field(
        default=None,
        metadata={
            "help": "Options of `python -m data_prep` as a mapping (source, spacy_model, output ...). Builds the "
            "dataset before training if its output folder is not there yet."
        },
    )
    max_length: int = field(
        default=MAX_LENGTH,
        metadata={
            "help": "Word pieces of a text that are read in training and evaluation; longer texts are cut, and the "
            "number of cut texts is reported."
        },
    )
    bad_rows: str = field(
        default=ERROR,
        metadata={
            "help": "What becomes of a row that cannot be used (not to be read, no text, a span outside the text, an "
            "unknown label ...): error stops before training and names it; skip leaves it out and writes it with its "
            "reason to skipped_rows.jsonl in the output folder."
        },
    )
    check_data: bool = field(
        default=False,
        metadata={
            "help": "Only read the data, and print for every task: rows, labels, lengths, what is cut or does not "
            "align, and three samples."
        },
    )
    max_train_samples: int | None = field(
        default=None,
        metadata={
            "help": "Train on so many rows of each dataset, always the same, drawn from all of it; for a quick try."
        },
    )
    max_eval_samples: int | None = field(
        default=None, metadata={"help": "Evaluate on so many rows of each validation split."}
    )
    max_predict_samples: int | None = field(
        default=None, metadata={"help": "Predict so many rows of each test split."}
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
        """The row limit of each split."""
        return {
            "train": self.max_train_samples,
            "validation": self.max_eval_samples,
            "test": self.max_predict_samples,
        }


@dataclass
class MTLTrainingArguments(TrainingArguments):
    """transformers' `TrainingArguments`, and what joint training adds."""

    _argument_group_name = "training"
    _VALID_DICT_FIELDS = [*TrainingArguments._VALID_DICT_FIELDS, "task_weights", "sampling_weights"]  # noqa: RUF012

    # Other defaults than transformers', because of what a multi-task batch looks like.
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave it off: the data are features of the model already."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Leave it off: every head runs in every step, so no parameter is unused."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Leave it off: a loss that is not finite is seen, and not hidden from the log."},
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "'group_by_length' puts texts of like length in a batch (less padding); or 'random'."},
    )

    dataset_sampling: str = field(
        default="proportional",
        metadata={
            "help": "Which dataset the next training batch comes from: proportional (every row once an epoch), "
            "temperature (by size ** (1 / sampling_temperature)), round_robin (in turn), or weights (by "
            "sampling_weights). A batch is of one dataset; an epoch has as many batches as all datasets together."
        },
    )
    sampling_temperature: float = field(
        default=2.0,
        metadata={"help": "For dataset_sampling temperature: 1 keeps the sizes, large values make datasets equal."},
    )
    sampling_weights: dict | str | None = field(
        default=None,
        metadata={"help": "For dataset_sampling weights: mapping of dataset to its share, in any unit."},
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "auto: bf16 autocast where the processor or GPU computes it natively, else fp32. fp32, bf16 or "
            "fp16 to decide yourself; --bf16 and --fp16 do the same."
        },
    )
    task_weights: dict | str | None = field(
        default=None,
        metadata={"help": "Weight of each task's loss in the sum, e.g. '{\"ner\": 2.0}'. 1 for tasks not named."},
    )
    loss_balancing: str = field(
        default="static",
        metadata={
            "help": "How task losses become one: static (task_weights), uncertainty (learned, Kendall 2018), dwa "
            "(dynamic weight average, Liu 2019) or first_step (each loss divided by its first value). task_weights "
            "multiply all of them."
        },
    )
    embedding_distillation: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a loss that holds the sentence embedding of every training text near the one that the "
            "starting encoder gives it: 1 - cosine, averaged over the texts of an optimizer step (learning without "
            "forgetting, arXiv 1606.09282). Learning labels and entities then does not cost the embedding. Try 8; 0 "
            "leaves the embedding free."
        },
    )
    gradient_aggregator: str | None = field(
        default=None,
        metadata={
            "help": "Join the tasks' gradients on the encoder by this aggregator of torchjd (UPGrad, MGDA, PCGrad "
            "...) instead of adding them. Needs `pip install 'torchjd[quadprog_projector]'`, one process and no "
            "gradient accumulation."
        },
    )
    gradient_statistics_steps: int = field(
        default=50,
        metadata={
            "help": "Every so many steps, look at the norm of each task's gradient on the last shared layer and at "
            "their pairwise cosines, and log them; 0 for never."
        },
    )
    skip_nonfinite: bool = field(
        default=False,
        metadata={
            "help": "Leave out an optimizer step whose loss or gradient is not a finite number, and count such steps "
            "in the log and the results, instead of stopping with an error that names the rows."
        },
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of the heads, which start from nothing. Default: learning_rate."},
    )
    step_decay_every: float | None = field(
        default=None,
        metadata={
            "help": "Instead of lr_scheduler_type: multiply the learning rate by step_decay_factor every so many "
            "epochs, after the warm-up."
        },
    )
    step_decay_factor: float = field(default=0.1, metadata={"help": "See step_decay_every; between 0 and 1."})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after so many evaluations in a row without a better metric_for_best_model. Needs "
            "load_best_model_at_end."
        },
    )
    freeze_encoder: bool = field(
        default=False, metadata={"help": "Train the heads only; the encoder stays bit for bit as it is."}
    )
    freeze_embeddings: bool = field(
        default=False, metadata={"help": "Leave the encoder's embeddings (word, position, type) as they are."}
    )
    num_frozen_layers: int = field(
        default=0,
        metadata={
            "help": "Leave the lowest so many encoder layers as they are. Add --freeze_embeddings to save the time of "
            "their backward pass as well."
        },
    )
    freeze_heads: list[str] | None = field(
        default=None, metadata={"help": "Tasks whose heads stay as they are, e.g. --freeze_heads topic."}
    )
    gradual_unfreezing: bool = field(
        default=False,
        metadata={
            "help": "Train the heads alone at first, and thaw the encoder from the top: its last layer after one "
            "epoch, one layer more after each, the embeddings last. What other flags freeze stays frozen."
        },
    )
    unfreeze_every: float | None = field(
        default=None,
        metadata={
            "help": "For gradual_unfreezing: thaw every so many steps instead of every epoch; below 1, the share of "
            "all steps."
        },
    )
    layer_decay: float | None = field(
        default=None,
        metadata={
            "help": "Multiply the learning rate by this for every layer down: once for the encoder's last layer, "
            "number of layers + 1 times for the embeddings. 0.9 is common; heads keep theirs."
        },
    )
    padding_free: bool = field(
        default=True,
        metadata={
            "help": "Leave padding out of the encoder's layers, where the encoder allows it: the same loss from less "
            "work, a half less for texts of unlike length. Not with torch_compile."
        },
    )
    feature_cache: bool | None = field(
        default=None,
        metadata={
            "help": "Compute what the frozen lower end of the encoder makes of the training texts once, and read it "
            "from disk in every epoch. Default: where the whole encoder is frozen and there is more than one epoch. "
            "True: also for frozen embeddings with frozen lowest layers."
        },
    )
    feature_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Where feature caches lie, for all runs. Default: mtsbert/feature_cache in the HF_HOME folder."
        },
    )
    feature_cache_dtype: str = field(
        default="fp16", metadata={"help": "Number format in the feature cache: fp16, bf16 or fp32."}
    )
    feature_cache_gb: float = field(
        default=10.0,
        metadata={
            "help": "The most that all feature caches together may take, in 10^9 bytes. Those not used for longest "
            "are removed; what does not fit is not cached."
        },
    )

    def __post_init__(self):
        self._choose_precision()
        if self.hub_token is not None:
            raise ValueError(
                "--hub_token is refused: it would be stored in training_args.bin and pushed with the model. "
                "Set the environment variable HF_TOKEN, or use `hf auth login`."
            )
        super().__post_init__()
        if self.gradual_unfreezing:
            self.ddp_find_unused_parameters = True  # frozen ones are unused, and DDP must know them from the start
        self.task_weights = parse_weights(self.task_weights, "task_weights")
        self.sampling_weights = parse_weights(self.sampling_weights, "sampling_weights")
        self.check()

    @classmethod
    def of(cls, args: TrainingArguments | None) -> "MTLTrainingArguments":
        """Arguments as they are, or what was set in plain `TrainingArguments`, with our defaults for the rest."""
        if isinstance(args, cls):
            return args
        changed = {}
        for setting in fields(TrainingArguments) if args is not None else ():
            value = getattr(args, setting.name)
            default = setting.default_factory() if setting.default is MISSING else setting.default
            if setting.init and value != default:
                changed[setting.name] = value
        return cls(**changed)

    def check(self) -> None:
        """Raises `ValueError` for values that cannot be, alone or together."""
        if self.step_decay_every is not None and self.step_decay_every <= 0:
            raise ValueError(f"`step_decay_every` is {self.step_decay_every}; it must be more than 0 epochs.")
        if not 0.0 < self.step_decay_factor <= 1.0:
            raise ValueError(f"`step_decay_factor` is {self.step_decay_factor}; it must lie in (0, 1].")
        if self.head_learning_rate is not None and self.head_learning_rate < 0:
            raise ValueError(f"`head_learning_rate` is {self.head_learning_rate}; it must not be negative.")
        self._check_freezing()
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"`early_stopping_patience` is {self.early_stopping_patience}; it must be at least 1.")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("`early_stopping_patience` needs `load_best_model_at_end: true`.")
        if self.loss_balancing not in LOSS_BALANCING:
            raise ValueError(f"`loss_balancing` is {self.loss_balancing!r}; allowed are {list(LOSS_BALANCING)}.")
        if self.embedding_distillation < 0:
            raise ValueError(f"`embedding_distillation` is {self.embedding_distillation}; it must not be negative.")
        if self.embedding_distillation and self.freeze_encoder:
            raise ValueError(
                "`embedding_distillation` holds the embedding where it started, and with `freeze_encoder` it does not "
                "move; drop one."
            )
        if self.embedding_distillation and self.gradient_aggregator:
            raise ValueError(
                "`gradient_aggregator` joins the gradients of tasks; it knows no `embedding_distillation`."
            )
        if self.gradient_statistics_steps < 0:
            raise ValueError(f"`gradient_statistics_steps` is {self.gradient_statistics_steps}; it must be 0 or more.")
        if self.gradient_aggregator and (self.gradient_accumulation_steps > 1 or self.world_size > 1):
            raise ValueError("`gradient_aggregator` needs one process and `gradient_accumulation_steps: 1`.")
        if self.gradient_aggregator and (self.loss_balancing == UNCERTAINTY or self.fp16):
            raise ValueError("`gradient_aggregator` cannot be used with `loss_balancing: uncertainty`, nor with fp16.")
        if self.train_sampling_strategy not in ("group_by_length", "random", "sequential"):
            raise ValueError(
                f"`train_sampling_strategy` is {self.train_sampling_strategy!r}; allowed are group_by_length, random "
                "and sequential."
            )
        if self.train_sampling_strategy == "sequential" and self.dataset_sampling != PROPORTIONAL:
            raise ValueError("`train_sampling_strategy: sequential` leaves nothing for `dataset_sampling` to choose.")
        if self.label_smoothing_factor:
            raise ValueError("`label_smoothing_factor` is not used here; give a task its own `label_smoothing`.")
        if self.n_gpu > 1:
            raise ValueError(
                f"Several GPUs ({self.n_gpu}) need one process each: start with `accelerate launch run_mtl.py …`."
            )
        if self.dataset_sampling not in DATASET_SAMPLING:
            raise ValueError(f"`dataset_sampling` is {self.dataset_sampling!r}; allowed are {list(DATASET_SAMPLING)}.")
        if self.sampling_temperature < 1.0:
            raise ValueError(f"`sampling_temperature` is {self.sampling_temperature}; it must be at least 1.")
        if (self.dataset_sampling == WEIGHTS) != any(self.sampling_weights.values()):
            raise ValueError("`dataset_sampling: weights` and `sampling_weights`, not all 0, go together.")

    def _check_freezing(self) -> None:
        if self.num_frozen_layers < 0:
            raise ValueError(f"`num_frozen_layers` is {self.num_frozen_layers}; it must not be negative.")
        if self.gradual_unfreezing and self.freeze_encoder:
            raise ValueError("`gradual_unfreezing` thaws the encoder that `freeze_encoder` keeps frozen; drop one.")
        if self.unfreeze_every is not None and not self.gradual_unfreezing:
            raise ValueError("`unfreeze_every` says when `gradual_unfreezing` thaws; set that as well.")
        every = self.unfreeze_every
        if every is not None and not (0 < every < 1 or (every >= 1 and every == int(every))):
            raise ValueError(
                f"`unfreeze_every` is {every}; it must be a whole number of steps, or a share between 0 and 1."
            )
        if self.layer_decay is not None and not 0.0 < self.layer_decay <= 1.0:
            raise ValueError(f"`layer_decay` is {self.layer_decay}; it must lie in (0, 1].")
        if self.layer_decay is not None and self.freeze_encoder:
            raise ValueError(
                "`layer_decay` sets the rates of the encoder that `freeze_encoder` keeps frozen; drop one."
            )
        if self.feature_cache_dtype not in FEATURE_CACHE_DTYPES:
            raise ValueError(
                f"`feature_cache_dtype` is {self.feature_cache_dtype!r}; allowed are {list(FEATURE_CACHE_DTYPES)}."
            )
        if self.feature_cache_gb <= 0:
            raise ValueError(f"`feature_cache_gb` is {self.feature_cache_gb}; it must be more than 0.")
        if self.gradient_aggregator and (self.freeze_encoder or self.gradual_unfreezing):
            raise ValueError(
                "`gradient_aggregator` joins gradients on the encoder; with `freeze_encoder` or `gradual_unfreezing` "
                "there are steps without any."
            )

    def _choose_precision(self) -> None:
        """Turns `precision` into transformers' `bf16` and `fp16`."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"`precision` is {self.precision!r}; allowed are {list(PRECISIONS)}.")
        asked = "bf16" if self.bf16 else "fp16" if self.fp16 else None
        if asked is not None and self.precision not in ("auto", asked):
            raise ValueError(f"--{asked} contradicts `precision: {self.precision}`; keep one of the two.")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # transformers wants it said before it trains in bf16 on a processor
        if asked is None and self.precision == "auto":
            self.bf16 = has_native_bf16(self.use_cpu)
        elif self.precision in ("bf16", "fp16"):
            setattr(self, self.precision, True)


def own_settings(args: MTLTrainingArguments) -> dict[str, Any]:
    """The arguments that transformers does not have, and the learning rate: what a model's parts are trained by."""
    of_transformers = {setting.name for setting in fields(TrainingArguments)} - {"learning_rate"}
    return {one.name: getattr(args, one.name) for one in fields(args) if one.name not in of_transformers}
