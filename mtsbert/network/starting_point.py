"""Loads the model and the tokenizer that a run starts from."""

import importlib.util
import json
import logging
from copy import deepcopy
from pathlib import Path, PureWindowsPath

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedConfig, PreTrainedTokenizerBase
from transformers.models.auto.tokenization_auto import get_tokenizer_config

from configuration_mtsbert import MTSBertConfig, file_of
from heads_mtsbert import num_positions, scale_features
from modeling_mtsbert import MTSBertModel
from mtsbert.input_arguments import ModelArguments
from mtsbert.letter_case.tokenizer import cased_words, with_letter_case
from mtsbert.network.adapters import base_of, has_adapters, merge_adapters, put_adapter
from pipeline_mtsbert import MOST_TOKENS, MTSBertPipeline


DROPOUTS = (  # what configs of encoders call it: BERT and its kin, DistilBERT, ModernBERT, XLNet and others
    *("hidden_dropout_prob", "attention_probs_dropout_prob", "dropout", "attention_dropout", "hidden_dropout"),
    *("activation_dropout", "embedding_dropout", "mlp_dropout", "attn_dropout", "activation_dropout_prob"),
)
PACKAGE_PREFIX = "package:"
ONNX_GRAPH, OPENVINO_GRAPH = "model.onnx", "openvino_model.xml"  # what an export has in place of weights

logger = logging.getLogger(__name__)


def resolve_name(name_or_path: str) -> str:
    """Turns `package:NAME/FOLDER` into the folder inside the installed Python package; leaves other names alone."""
    if not name_or_path.startswith(PACKAGE_PREFIX):
        return name_or_path
    package, _, folder = name_or_path.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"{name_or_path!r}: no Python package {package!r} is installed. `make weights` installs the ones that the "
            "recipes use."
        )
    path = Path(spec.submodule_search_locations[0]) / folder
    if not (path / "config.json").is_file():
        raise ValueError(f"{name_or_path!r}: the package {package!r} has no model in its folder {folder!r}.")
    return str(path)


def load_tokenizer(model_args: ModelArguments) -> PreTrainedTokenizerBase:
    """
    Loads the tokenizer of the checkpoint or encoder; with `letter_case`, one that keeps capital letters. Raises
    `ValueError` if it is not a fast tokenizer, or cannot keep them.
    """
    asked = model_args.model_name_or_path or model_args.encoder_name_or_path
    try:
        tokenizer = open_tokenizer(resolve_name(asked), load_encoder_config(model_args))
    except (OSError, KeyError) as error:
        raise ValueError(f"No tokenizer found for {asked!r}: {error}") from error
    _check_fast(tokenizer, asked)
    return with_letter_case(tokenizer) if model_args.letter_case else tokenizer


def _check_fast(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    if not tokenizer.is_fast:
        raise ValueError(
            f"The tokenizer of {name!r} ({type(tokenizer).__name__}) is a slow one: it does not say where in the "
            "text a token lies, which entities need. Choose an encoder with a fast tokenizer (tokenizer.json)."
        )


def open_tokenizer(
    name_or_path: str | Path, encoder_config: PreTrainedConfig, *, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """
    Loads a tokenizer from a folder or a Hub id, without running custom code or reading files outside of it.

    Raises:
        `ValueError`: if the tokenizer has custom code, refers to a file outside of the folder, or has no vocabulary.
    """
    settings = get_tokenizer_config(name_or_path, revision=revision)
    files = settings.get("fast_tokenizer_files") or []  # transformers opens the one for its own version
    if elsewhere := [file for file in files if PureWindowsPath(file).name != file]:
        raise ValueError(f"{name_or_path}: its tokenizer_config.json names files outside the folder: {elsewhere}.")
    tokenizer = AutoTokenizer.from_pretrained(
        name_or_path, config=encoder_config, revision=revision, trust_remote_code=False
    )
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # transformers makes one up if the files are missing
        raise ValueError(
            f"No tokenizer found for {str(name_or_path)!r}: the folder has no vocabulary (tokenizer.json) in it."
        )
    file = file_of(name_or_path, "sentence_bert_config.json", revision=revision)
    of_library = {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    if (longest := of_library.get("max_seq_length")) is not None:  # before sentence-transformers 6
        tokenizer.model_max_length = min(longest, tokenizer.model_max_length)
    return tokenizer


def load_encoder_config(model_args: ModelArguments) -> PreTrainedConfig:
    """
    Loads the config of the encoder that a run starts from.

    Raises:
        `ValueError`: if there is none, or settings of a new model differ from those of the checkpoint.
    """
    if model_args.model_name_or_path is not None:
        config = load_checkpoint_config(model_args.model_name_or_path)
        for name, value in model_args.new_model_settings.items():
            if (own := getattr(config, name, None)) != value:
                raise ValueError(
                    f"`{name}` is {value!r}, and the checkpoint {model_args.model_name_or_path!r} has {own!r}, which "
                    "only a new model can choose; leave it out."
                )
        return config.encoder_config
    asked = model_args.encoder_name_or_path
    try:
        config = AutoConfig.from_pretrained(resolve_name(asked), trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Unknown encoder {asked!r}: it is no folder with a config.json, no Hub id that can be reached, and no "
            f"'{PACKAGE_PREFIX}NAME/FOLDER'. ({error})"
        ) from error
    set_encoder_dropout(config, model_args.encoder_dropout)
    return config


def set_encoder_dropout(config: PreTrainedConfig, probability: float | None) -> None:
    """
    Sets the dropout of an encoder wherever its config has one; None leaves it as it is.

    Raises:
        `ValueError`: if the config has no dropout that is known.
    """
    if probability is None:
        return
    names = [name for name in DROPOUTS if hasattr(config, name)]
    if not names:
        raise ValueError(f"`encoder_dropout`: the config of a {config.model_type} encoder has none of {DROPOUTS}.")
    for name in names:
        setattr(config, name, probability)


def load_checkpoint_config(name_or_path: str, *, revision: str | None = None) -> MTSBertConfig:
    """
    Loads the config of an mtsbert checkpoint with this project's class; that of an adapter (peft) is its checkpoint's,
    whose name it has as `name_or_path`.

    Raises:
        `ValueError`: for other models, or for an adapter if peft is not installed.
    """
    if (base := base_of(name_or_path, revision=revision)) is not None:
        try:
            return load_checkpoint_config(base)
        except ValueError as error:
            raise ValueError(
                f"{str(name_or_path)!r} is an adapter, and the checkpoint that it is for, {base!r}, cannot be opened. "
                f"Correct `base_model_name_or_path` in its adapter_config.json if that has moved. ({error})"
            ) from error
    try:
        settings, _ = MTSBertConfig.get_config_dict(name_or_path, revision=revision)
    except OSError as error:
        raise ValueError(f"No checkpoint found under {name_or_path!r}: {error}") from error
    if settings.get("model_type") != MTSBertConfig.model_type:
        raise ValueError(
            f"{name_or_path!r} is a {settings.get('model_type')!r} model, not an mtsbert checkpoint. To start from a "
            "bare encoder, use --encoder_name_or_path."
        )
    config = MTSBertConfig.from_pretrained(name_or_path, revision=revision)
    config.name_or_path = str(name_or_path)  # which transformers takes from the file where that has one
    return config


def is_export(folder: str | Path) -> bool:
    """Whether a folder has a graph that `mtsbert export` wrote."""
    return any((Path(folder) / file).is_file() for file in (ONNX_GRAPH, OPENVINO_GRAPH))


def check_no_export(name_or_path: str | Path) -> None:
    """Raises `ValueError` for what `mtsbert export` wrote, which has no weights."""
    if is_export(name_or_path):
        raise ValueError(
            f"{str(name_or_path)!r} is an export, which has a graph in place of weights: `mtsbert predict`, `serve`, "
            "`demo` without `--app`, `annotate` and `evaluate-entities` take it. Name the checkpoint that it was made "
            "from."
        )


def open_checkpoint(
    name_or_path: str, config: MTSBertConfig, *, revision: str | None = None, **options
) -> MTSBertModel:
    """
    Loads a model by this repository's classes; an adapter is put into its checkpoint.

    Args:
        name_or_path (`str`): Folder or Hub id.
        config ([`MTSBertConfig`]): Its config, see [`load_checkpoint_config`].
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.
        options: What else `from_pretrained` takes.

    Raises:
        `ValueError`: for what `mtsbert export` wrote, which has no weights.
    """
    base = config.name_or_path
    is_adapter = base != str(name_or_path)
    try:
        model = MTSBertModel.from_pretrained(base, config=config, revision=None if is_adapter else revision, **options)
    except OSError:
        check_no_export(base)
        raise
    if is_adapter:
        put_adapter(model, name_or_path, revision=revision)
    return model


def pipeline_of_checkpoint(name_or_path: str, *, revision: str | None = None, merges: bool = False) -> MTSBertPipeline:
    """
    The multi-task pipeline of a checkpoint, by this repository's classes: no code of the checkpoint runs.

    Args:
        revision: Branch, tag or commit of a Hub id.
        merges: Whether to merge an adapter into its checkpoint; otherwise it can be changed for another.

    Raises:
        `ValueError`: where there is no checkpoint of ours.
    """
    config = load_checkpoint_config(name_or_path, revision=revision)
    try:
        model = open_checkpoint(name_or_path, config, revision=revision)
        tokenizer = open_tokenizer(name_or_path, config.encoder_config, revision=revision)
    except OSError as error:
        raise ValueError(f"The checkpoint {name_or_path!r} is not whole: {error}") from error
    return pipeline_of(merge_adapters(model) if merges else model, tokenizer)


def pipeline_of(model: MTSBertModel, tokenizer: PreTrainedTokenizerBase) -> MTSBertPipeline:
    """Returns the pipeline of a model in evaluation mode, on the GPU if there is one."""
    return model.eval().as_pipeline(tokenizer, device="cuda" if torch.cuda.is_available() else "cpu")


def tasks_of_checkpoint(model_args: ModelArguments) -> dict[str, dict] | None:
    """Returns the tasks of the checkpoint that a run continues from; None if it starts from a plain encoder."""
    if model_args.model_name_or_path is None:
        return None
    return load_checkpoint_config(model_args.model_name_or_path).tasks


def load_model(model_args: ModelArguments, tasks: dict[str, dict]) -> MTSBertModel:
    """
    Loads the model to train: a pretrained encoder with new heads for `tasks`, or a checkpoint. A checkpoint keeps its
    heads and gets new ones for tasks that it does not have. An adapter is merged into its checkpoint.
    """
    if model_args.model_name_or_path is not None:
        config = load_checkpoint_config(model_args.model_name_or_path)
        if new := [task for task in tasks if task not in config.tasks]:
            logger.info(f"The tasks {new} are new to the checkpoint: their heads start from nothing.")
        config.tasks = deepcopy(tasks)
        for task in new:
            scale_features(config, config.tasks[task])
        set_encoder_dropout(config.encoder_config, model_args.encoder_dropout)
        # Not in the precision that it was saved in: small updates would be lost in weights of 16 bits.
        return merge_adapters(open_checkpoint(model_args.model_name_or_path, config, dtype=torch.float32))
    return MTSBertModel.from_encoder(
        resolve_name(model_args.encoder_name_or_path),
        tasks=tasks,
        encoder_config=load_encoder_config(model_args),
        **model_args.new_model_settings,
    )


def check_longest(
    max_length: int,
    tokenizer: PreTrainedTokenizerBase,
    encoder_config: PreTrainedConfig,
    *,
    letter_case: bool = False,
) -> None:
    """
    Raises `ValueError` if `max_length` exceeds what the encoder can process, or leaves no room for text; or if the
    tokenizer has tokens that the encoder has no embeddings for. With `letter_case`, words with capital letters need
    none.
    """
    without = {id_ for id_, *_ in cased_words(tokenizer)} if letter_case else ()
    highest = max(id_ for id_ in tokenizer.get_vocab().values() if id_ not in without)
    num_embeddings = getattr(encoder_config, "vocab_size", None)
    if num_embeddings is not None and highest >= num_embeddings:
        raise ValueError(
            f"The tokenizer has tokens up to the id {highest}, and the encoder has embeddings for {num_embeddings}. "
            f"Load the encoder, call `resize_token_embeddings({highest + 1})`, and save it with this tokenizer."
        )
    longest = _num_positions(encoder_config) or tokenizer.model_max_length
    special = tokenizer.num_special_tokens_to_add()
    if type(max_length) is not int or not special < max_length <= longest:
        raise ValueError(
            f"`max_length` is {max_length!r}; this encoder reads from {special + 1} to {longest} tokens (a whole "
            f"number), of which {special} are special."
        )


def longest_input(tokenizer: PreTrainedTokenizerBase, encoder_config: PreTrainedConfig) -> int:
    """Returns the number of tokens, special ones included, that an encoder reads unless `max_length` asks for more."""
    return min(tokenizer.model_max_length, _num_positions(encoder_config) or MOST_TOKENS)


def _num_positions(encoder_config: PreTrainedConfig) -> int | None:
    with torch.device("meta"):
        return num_positions(AutoModel.from_config(encoder_config))


def title_of(model_name_or_path: str) -> str:
    """Returns the name to show for a model: the Hub id, or the name of the folder."""
    path = Path(model_name_or_path)
    return path.resolve().name if path.is_dir() else model_name_or_path


def name_of(model: MTSBertModel) -> str:
    """Returns the checkpoint or encoder that a model was loaded from; empty if it was built from a config."""
    return model.config.name_or_path or getattr(model, "encoder_name_or_path", "")


def check_whole(model: object) -> None:
    """Raises `ValueError` unless a model is an [`MTSBertModel`] with all of its heads, not wrapped or compiled."""
    modules = dict(model.named_modules()) if isinstance(model, nn.Module) else {}
    if any(hasattr(module, "_orig_mod") for module in modules.values()):
        raise ValueError(
            "The model, or a part of it, is compiled by `torch.compile`: a checkpoint would have its weights under "
            "other names, which nothing reads. Give the model as it was before, and set `torch_compile`."
        )
    # By name, since a checkpoint may bring a class of its own. What peft has wrapped is refused later, with the way.
    names = [kind.__name__ for kind in type(model).__mro__]
    if (MTSBertModel.__name__ not in names or hasattr(model, "head")) and not (modules and has_adapters(model)):
        raise ValueError(
            f"The Trainer takes an MTSBertModel with all of its heads, and this is a {names[0]}. Start a model with "
            "`MTSBertModel.from_encoder`, open a checkpoint with `MTSBertModel.from_pretrained`, and give a model "
            "that is wrapped (`DataParallel`) as it was before."
        )


def check_encoder(model: MTSBertModel) -> None:
    """Raises `ValueError` for an encoder with a decoder that needs texts of its own, as T5's."""
    if not model.config.encoder_config.is_encoder_decoder:
        return
    ids = torch.ones((1, 2), dtype=torch.long, device=model.device)
    try:
        with torch.inference_mode():
            model.encode(ids, for_heads=False)
    except Exception as error:  # which every model words as it likes
        raise ValueError(
            f"A {type(model.encoder).__name__} turns one text into another, and gives no states for the tokens of a "
            f"text alone ({error}). Choose a model that is an encoder only, as BERT and its kin."
        ) from error


def tokenizer_of(model: MTSBertModel) -> PreTrainedTokenizerBase:
    """
    Loads the tokenizer of the checkpoint or encoder that a model was loaded from.

    Raises:
        `ValueError`: if the model was built from a config, or there is no fast tokenizer.
    """
    encoder_config = model.config.encoder_config
    name = name_of(model)
    if not name:
        raise ValueError(
            "The model was not loaded from a folder or the Hub: give its tokenizer as `processing_class`."
        )
    try:
        tokenizer = open_tokenizer(name, encoder_config, revision=getattr(model, "revision", None))
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"No tokenizer found for {name!r}; give it as `processing_class`. ({error})") from error
    _check_fast(tokenizer, name)
    return tokenizer
