"""Defines the options of training, as a dataclass. The help texts are the manual."""

from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

import torch
from transformers import TrainingArguments
from transformers.integrations import INTEGRATION_TO_CALLBACK, get_available_reporting_integrations

from mtsbert.freezing_arguments import FreezingArguments
from mtsbert.machine import PRECISIONS, has_native_bf16
from mtsbert.settings import as_annotated, check_numbers, parse_weights


PROPORTIONAL, TEMPERATURE, ROUND_ROBIN, WEIGHTS = "proportional", "temperature", "round_robin", "weights"
DISTILLATION_TEMPERATURE = 2.0  # of a task without one of its own
LOWER_IS_BETTER = "_mae"  # the end of the metrics of which that is so, beside losses
ADAM = "adam"  # which is not among the optimizers of transformers
DATASET_SAMPLING = (PROPORTIONAL, TEMPERATURE, ROUND_ROBIN, WEIGHTS)
STATIC, UNCERTAINTY, DWA, FIRST_STEP = "static", "uncertainty", "dwa", "first_step"
LOSS_BALANCING = (STATIC, UNCERTAINTY, DWA, FIRST_STEP)
FEATURE_CACHE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
# Inherited arguments that have no use here → the value that they must have, and what to do instead.
REFUSED = {
    "label_smoothing_factor": (0.0, "give a task its own `label_smoothing`"),
    "remove_unused_columns": (False, "the columns of a dataset are chosen by `columns`, and the model needs them all"),
    "eval_do_concat_batches": (True, "the metrics of a task are of all its rows"),
    "batch_eval_metrics": (False, "the metrics of a task are of all its rows"),
    "label_names": (None, "labels are the columns of the tasks"),
    "debug": (
        [],
        "transformers' search for overflows cannot read masks; a loss that is not finite names its rows here",
    ),
    "length_column_name": ("length", "rows are sorted by the length that their tokens have"),
}
# Whose arguments are all for a Trainer. The fields that users add to a class of their own are for code of their own.
LIBRARIES = ("transformers", "sentence_transformers")


@dataclass
class MTLTrainingArguments(FreezingArguments, TrainingArguments):
    """transformers' `TrainingArguments`, and what joint training adds."""

    _argument_group_name = "training"
    _VALID_DICT_FIELDS = [  # noqa: RUF012
        *TrainingArguments._VALID_DICT_FIELDS,
        *("task_weights", "sampling_weights", "distillation_weights", "distillation_temperatures"),
    ]

    # These defaults differ from transformers', because multi-task batches look different.
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Leave it off: the datasets contain only columns that the model needs."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata={"help": "Leave it off: every head runs in every step, so no parameter is unused."}
    )
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Leave it off, so that a loss that is not finite shows up in the log."},
    )
    train_sampling_strategy: str = field(
        default="group_by_length",
        metadata={"help": "'group_by_length' batches texts of similar length (less padding); or 'random'."},
    )

    dataset_sampling: str = field(
        default="proportional",
        metadata={
            "help": "Which dataset the next training batch comes from: proportional (every row once per epoch), "
            "temperature (proportional to size ** (1 / sampling_temperature)), round_robin (in turn), or weights "
            "(given by sampling_weights). A batch contains rows of a single dataset. An epoch has as many batches as "
            "all datasets together."
        },
    )
    sampling_temperature: float = field(
        default=2.0,
        metadata={
            "help": "For dataset_sampling temperature: 1 samples in proportion to size, large values sample all "
            "datasets equally often."
        },
    )
    sampling_weights: dict | str | None = field(
        default=None,
        metadata={"help": "For dataset_sampling weights: mapping from dataset to its share, in any unit."},
    )
    precision: str = field(
        default="auto",
        metadata={
            "help": "auto: bf16 autocast if the CPU or GPU supports it natively, otherwise fp32. Set fp32, bf16 or "
            "fp16 to decide yourself; --bf16 and --fp16 do the same."
        },
    )
    task_weights: dict | str | None = field(
        default=None,
        metadata={"help": "Weight of each task's loss in the sum, e.g. '{\"ner\": 2.0}'. Default for a task: 1."},
    )
    loss_balancing: str = field(
        default="static",
        metadata={
            "help": "How the task losses are combined: static (weighted by task_weights), uncertainty (learned "
            "weights, Kendall 2018), dwa (dynamic weight average, Liu 2019) or first_step (each loss divided by its "
            "first value). task_weights apply on top of each."
        },
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "An mtsbert checkpoint (a folder or a Hub id) whose answers are learned beside the labels: its "
            "probabilities for every task on single texts that both have, on every training text, with a label or "
            "without. They are computed once, before the first step. Its sentence embedding is what "
            "embedding_distillation holds the new one to. It must have the same tokenizer, and the same labels."
        },
    )
    distillation_weights: dict | str | None = field(
        default=None,
        metadata={
            "help": "Weight of what is learned from the teacher for each task, e.g. '{\"ner\": 2.0}'. Default for a "
            "task: 1; with 0, it is learned from labels alone. The weight of the labels is in task_weights; with 0 "
            "there, the task is learned from the teacher alone."
        },
    )
    distillation_temperatures: dict | str | None = field(
        default=None,
        metadata={
            "help": "Temperature of each task: the logits of teacher and student are divided by it before they are "
            "compared, and the loss is multiplied by its square (Hinton 2015, arXiv 1503.02531). The higher it is, "
            "the more unlikely answers count. Default for a task: 2. Has no effect on a regression."
        },
    )
    embedding_distillation: float = field(
        default=0.0,
        metadata={
            "help": "Weight of a loss that keeps the sentence embeddings close to those of the initial encoder, so "
            "that they do not get worse while labels and entities are learned: 1 - cosine, averaged over the texts of "
            "an optimizer step (learning without forgetting, arXiv 1606.09282). Good values are 2 to 4 "
            "with num_task_layers and 8 without; 0 turns it off."
        },
    )
    embedding_distillation_parts: float = field(
        default=0.0,
        metadata={
            "help": "Also hold the embeddings of random parts of the training texts, so that texts of other lengths "
            "keep theirs: a part of this share of the texts, from 0 to 1 (each text). Every part is one more row of "
            "an epoch, without labels."
        },
    )
    embedding_reference: str | None = field(
        default=None,
        metadata={
            "help": "The model whose sentence embeddings are kept and compared with: a folder, a Hub id or "
            "'package:NAME/FOLDER' of a checkpoint or an encoder with the same tokenizer. Default: the teacher if "
            "there is one, or else the model that training starts from. A checkpoint that is trained further can be "
            "held to its first encoder this way."
        },
    )
    matryoshka_dims: list[int] | None = field(
        default=None,
        metadata={
            "help": "Sizes, e.g. 384 256 128 64: the loss of every task on two texts is the sum of its losses on the "
            "first 384, 256 ... dimensions of the embeddings, so that embeddings can be cut to these sizes later "
            "(Matryoshka, arXiv 2205.13147). Include the full size, or nothing is learned for it. Evaluation reports "
            "the correlation of a similarity task at each size."
        },
    )
    gradient_aggregator: str | None = field(
        default=None,
        metadata={
            "help": "Combine the tasks' gradients on the encoder with this torchjd aggregator (UPGrad, MGDA, PCGrad "
            "...) instead of adding them. Needs `pip install 'torchjd[quadprog-projector]'`, a single process and no "
            "gradient accumulation."
        },
    )
    gradient_statistics_steps: int = field(
        default=50,
        metadata={
            "help": "Number of steps between two measurements of the gradients on the last shared layer: the norm for "
            "each task and the cosine for each pair of tasks are logged. 0 turns this off."
        },
    )
    skip_nonfinite: bool = field(
        default=False,
        metadata={
            "help": "Skip an optimizer step if its loss or gradient is not finite, and count such steps in the log "
            "and the results, instead of stopping with an error that names the rows."
        },
    )
    head_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate of the newly initialized heads. Default: learning_rate."},
    )
    step_decay_every: float | None = field(
        default=None,
        metadata={
            "help": "Instead of lr_scheduler_type: after the warmup, multiply the learning rate by step_decay_factor "
            "each time this many epochs have passed."
        },
    )
    step_decay_factor: float = field(default=0.1, metadata={"help": "See step_decay_every; between 0 and 1."})
    early_stopping_patience: int | None = field(
        default=None,
        metadata={
            "help": "Stop after this many evaluations in a row without a better metric_for_best_model. Needs "
            "load_best_model_at_end."
        },
    )
    calibration: bool = field(
        default=True,
        metadata={
            "help": "After training, fit on the validation split what makes scores probabilities of being right (a "
            "temperature for each task on labels, Platt scaling for entities), and keep it in the config."
        },
    )
    padding_free: bool = field(
        default=True,
        metadata={
            "help": "Remove padding inside the encoder's layers, if the encoder allows it: the same loss with less "
            "computation, half as much if lengths vary a lot. Has no effect with torch_compile."
        },
    )
    feature_cache: bool | None = field(
        default=None,
        metadata={
            "help": "Compute the output of the frozen encoder, or of its frozen bottom layers, for the training texts "
            "once and read it from disk in every epoch. Default: only if the whole encoder is frozen and there is "
            "more than one epoch. True: also if only the embeddings and the lowest layers are frozen."
        },
    )
    feature_cache_dir: str | None = field(
        default=None,
        metadata={
            "help": "Folder for the feature caches of all runs. Default: mtsbert/feature_cache in the HF_HOME folder."
        },
    )
    feature_cache_dtype: str = field(
        default="fp16", metadata={"help": "Number format in the feature cache: fp16, bf16 or fp32."}
    )
    feature_cache_gb: float = field(
        default=10.0,
        metadata={
            "help": "Maximum size of all feature caches together, in 10^9 bytes. The least recently used are removed "
            "first; a cache that does not fit is not written."
        },
    )

    def __post_init__(self):
        self._choose_precision()
        if self.hub_token is not None:
            raise ValueError(
                "--hub_token is refused: it would be stored in training_args.bin and pushed with the model. "
                "Set the environment variable HF_TOKEN, or use `hf auth login`."
            )
        if self.optim == ADAM:
            if self.weight_decay:
                raise ValueError(
                    f"`optim: adam` is Adam as it was published, without weight decay, and `weight_decay` is "
                    f"{self.weight_decay}. Set it to 0, or use `adamw_torch`."
                )
            self.optim = "adamw_torch"  # which is Adam where nothing decays
        if self.greater_is_better is None and str(self.metric_for_best_model).endswith(LOWER_IS_BETTER):
            self.greater_is_better = False  # transformers knows this of losses alone
        super().__post_init__()
        if self.gradual_unfreezing or self.thaw_at is not None or self.adaptive_freezing:
            # Frozen parameters are unused, and DDP must know from the start those that are trained in some steps only.
            self.ddp_find_unused_parameters = True
        self.task_weights = parse_weights(self.task_weights, "task_weights")
        self.sampling_weights = parse_weights(self.sampling_weights, "sampling_weights")
        self.distillation_weights = parse_weights(self.distillation_weights, "distillation_weights")
        self.distillation_temperatures = parse_weights(self.distillation_temperatures, "distillation_temperatures")
        self.check()

    @classmethod
    def of(cls, args: TrainingArguments | None) -> "MTLTrainingArguments":
        """Arguments as they are, or what was set in plain `TrainingArguments`, with our defaults for the rest."""
        if isinstance(args, cls):
            return args
        if not isinstance(args, TrainingArguments | None):
            raise ValueError(f"`args` is a {type(args).__name__}; give `MTLTrainingArguments(...)`.")
        if args is not None and type(args).__module__.partition(".")[0] in LIBRARIES:
            _check_unread(args)
        changed = {}
        for setting in fields(TrainingArguments) if args is not None else ():
            if setting.init and _is_set(args, setting):
                changed[setting.name] = getattr(args, setting.name)
        if str(changed.get("metric_for_best_model")).endswith(LOWER_IS_BETTER):
            changed.pop("greater_is_better", None)  # transformers has derived it, and knows of losses alone
        return cls(**changed)

    def check(self) -> None:
        """Raises `ValueError` for values that cannot be, alone or together."""
        if isinstance(self.thaw_at, int | float):  # the one text that may be a number
            self.thaw_at = str(self.thaw_at)
        for name, annotation in (FreezingArguments.__annotations__ | MTLTrainingArguments.__annotations__).items():
            setattr(self, name, as_annotated(name, getattr(self, name), annotation))
        check_numbers(vars(self))
        if self.step_decay_every is not None and self.step_decay_every <= 0:
            raise ValueError(f"`step_decay_every` is {self.step_decay_every}; it must be more than 0 epochs.")
        if not 0.0 < self.step_decay_factor <= 1.0:
            raise ValueError(f"`step_decay_factor` is {self.step_decay_factor}; it must lie in (0, 1].")
        if self.head_learning_rate is not None and self.head_learning_rate < 0:
            raise ValueError(f"`head_learning_rate` is {self.head_learning_rate}; it must not be negative.")
        self.check_freezing()
        if self.feature_cache_dtype not in FEATURE_CACHE_DTYPES:
            raise ValueError(
                f"`feature_cache_dtype` is {self.feature_cache_dtype!r}; allowed are {list(FEATURE_CACHE_DTYPES)}."
            )
        if self.feature_cache_gb <= 0:
            raise ValueError(f"`feature_cache_gb` is {self.feature_cache_gb}; it must be more than 0.")
        if self.early_stopping_patience is not None and self.early_stopping_patience < 1:
            raise ValueError(f"`early_stopping_patience` is {self.early_stopping_patience}; it must be at least 1.")
        if self.early_stopping_patience is not None and not self.load_best_model_at_end:
            raise ValueError("`early_stopping_patience` needs `load_best_model_at_end: true`.")
        if self.loss_balancing not in LOSS_BALANCING:
            raise ValueError(f"`loss_balancing` is {self.loss_balancing!r}; allowed are {list(LOSS_BALANCING)}.")
        if self.embedding_distillation < 0:
            raise ValueError(f"`embedding_distillation` is {self.embedding_distillation}; it must not be negative.")
        if not 0.0 <= self.embedding_distillation_parts <= 1.0:
            raise ValueError(
                f"`embedding_distillation_parts` is {self.embedding_distillation_parts}; it must lie in [0, 1]."
            )
        if self.embedding_distillation_parts and not self.embedding_distillation:
            raise ValueError("`embedding_distillation_parts` needs `embedding_distillation`, the weight of the loss.")
        if self.embedding_distillation and self.freeze_encoder and self.thaw_at is None:
            raise ValueError(
                "`embedding_distillation` holds the embedding where it started, and with `freeze_encoder` it does not "
                "move; drop one."
            )
        if self.embedding_distillation and self.gradient_aggregator:
            raise ValueError(
                "`gradient_aggregator` joins the gradients of tasks; it knows no `embedding_distillation`."
            )
        if self.teacher is None and (self.distillation_weights or self.distillation_temperatures):
            raise ValueError("`distillation_weights` and `distillation_temperatures` need a `teacher`.")
        if not all(temperature > 0 for temperature in self.distillation_temperatures.values()):
            raise ValueError(f"`distillation_temperatures` is {self.distillation_temperatures}; each must be above 0.")
        if self.teacher is not None and self.gradient_aggregator:
            raise ValueError("`gradient_aggregator` joins the gradients of tasks; it knows no `teacher`.")
        sizes = self.matryoshka_dims or []
        if not all(isinstance(size, int) and size >= 1 for size in sizes) or len(set(sizes)) < len(sizes):
            raise ValueError(f"`matryoshka_dims` is {sizes}; it must be whole numbers of at least 1, each once.")
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
        for name, (works, reason) in REFUSED.items():
            if getattr(self, name) != works:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}, which is not used here: {reason}.")
        absent = set(self.report_to) - {*get_available_reporting_integrations(), "azure_ml", "flyte"}  # not listed
        if absent & INTEGRATION_TO_CALLBACK.keys():
            raise ValueError(f"`report_to` names {sorted(absent)}, which must be installed; or set `report_to: none`.")
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

    @property
    def learns_from_texts(self) -> bool:
        """Whether a text without any label has something to teach."""
        return bool(self.embedding_distillation) or self.teacher is not None

    def _choose_precision(self) -> None:
        """Sets transformers' `bf16` and `fp16` from `precision`."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"`precision` is {self.precision!r}; allowed are {list(PRECISIONS)}.")
        asked = "bf16" if self.bf16 else "fp16" if self.fp16 else None
        if asked is not None and self.precision not in ("auto", asked):
            raise ValueError(f"--{asked} contradicts `precision: {self.precision}`; keep one of the two.")
        if not torch.accelerator.is_available():
            self.use_cpu = True  # transformers trains in bf16 on a CPU only if this is set
        if asked is None and self.precision == "auto":
            self.bf16 = has_native_bf16(self.use_cpu)
        elif self.precision in ("bf16", "fp16"):
            setattr(self, self.precision, True)


def _is_set(args: TrainingArguments, setting: Field) -> bool:
    default = setting.default_factory() if setting.default is MISSING else setting.default
    return getattr(args, setting.name) != default


def _check_unread(args: TrainingArguments) -> None:
    """Raises `ValueError` if arguments are set that `TrainingArguments` does not have, so that nothing reads them."""
    known = {setting.name for setting in fields(TrainingArguments)}
    if unread := [one.name for one in fields(args) if one.name not in known and _is_set(args, one)]:
        raise ValueError(
            f"The {type(args).__name__} set {unread}, which are not read here. Leave them out, and give "
            "`MTLTrainingArguments`: it has `dataset_sampling`, `head_learning_rate` and `layer_decay`; prompts are "
            "written into the rows."
        )


def own_settings(args: MTLTrainingArguments) -> dict[str, Any]:
    """Returns the learning rate and all arguments that `TrainingArguments` does not have."""
    of_transformers = {setting.name for setting in fields(TrainingArguments)} - {"learning_rate"}
    return {one.name: getattr(args, one.name) for one in fields(args) if one.name not in of_transformers}
