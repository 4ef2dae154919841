"""Opens adapters that were saved alone, in peft's format, on the checkpoint that they belong to, and merges them."""

import hashlib
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME, cached_file, find_adapter_config_file

from configuration_mtsbert import MTSBertConfig
from modeling_mtsbert import MTSBertModel
from mtsbert.data.labels import OF_HEADS, list_or_value, setting_of_head
from mtsbert.letter_case.embedding import CaseEmbedding
from mtsbert.settings import import_extra


BASE_FILE = "adapter_base.json"  # what an adapter of ours belongs to, see `fingerprint_of`
OF_MODEL = ("embedding_size", "pooling", "normalize", "num_task_layers")
OF_TRAINER = ("_lora_settings", "_held_by_adapters", "_fixed_names", "_left_by_trainer")  # what it notes on a model
IN_FILE = "base_model.model."  # how the names in peft's file begin


def base_of(name_or_path: str | Path, *, revision: str | None = None) -> str | None:
    """
    The checkpoint that an adapter is for; None if there is no adapter.

    Raises:
        `ValueError`: if the adapter does not say it, or is for another adapter, or peft is not installed.
    """
    file = _adapter_config(name_or_path, revision)
    if file is None:
        return None
    import_extra("peft", extra="lora")
    try:
        base = json.loads(Path(file).read_text(encoding="utf-8")).get("base_model_name_or_path")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"The {ADAPTER_CONFIG_NAME} of {str(name_or_path)!r} is broken: {error}") from error
    if not base:
        raise ValueError(f"{str(name_or_path)!r} is an adapter that does not say for which checkpoint.")
    if _adapter_config(base, None) is not None:
        raise ValueError(f"{str(name_or_path)!r} is an adapter for another adapter, {base!r}.")
    return base


def _adapter_config(name_or_path: str | Path, revision: str | None) -> str | None:
    try:
        return find_adapter_config_file(str(name_or_path), revision=revision)
    except (OSError, ValueError):  # no folder and no Hub id; whoever opens it says so
        return None


def put_adapter(model: MTSBertModel, name_or_path: str | Path, *, revision: str | None = None) -> str:
    """
    Puts an adapter into a model, and has it answer with it. One that is in it already is not read again.

    Args:
        model ([`MTSBertModel`]): The model that the adapter is for.
        name_or_path (`str` or `Path`): The folder or Hub id of the adapter.
        revision (`str`, *optional*): Branch, tag or commit of the adapter's Hub id.

    Returns:
        `str`: The name that the adapter has in the model.

    Raises:
        `ValueError`: if there is no such adapter, or it is for another model. The model is as before then.
    """
    peft, called = import_extra("peft", extra="lora"), str(name_or_path)
    try:
        weights = Path(cached_file(called, ADAPTER_SAFE_WEIGHTS_NAME, revision=revision))
        config = peft.PeftConfig.from_pretrained(called, revision=revision)
        tensors = load_file(weights)
        belongs = cached_file(called, BASE_FILE, revision=revision, _raise_exceptions_for_missing_entries=False)
    except (OSError, ValueError, AttributeError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(f"{called!r} is no adapter that can be opened: {error}") from error
    status = weights.stat()
    identity = (weights.resolve(), status.st_mtime_ns, status.st_size)
    loaded = model.__dict__.setdefault("_loaded_adapters", {})
    if identity not in loaded:
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        _check_belongs(model, called, config, shapes, belongs)
        loaded[identity] = f"adapter_{len(loaded)}"
        _inject(model, loaded[identity], config, tensors)
    for module in of_peft(model):
        module.set_adapter(loaded[identity])
    switch_adapters(model, on=True)
    return loaded[identity]


@torch.no_grad()
def _inject(model: MTSBertModel, name: str, config: Any, tensors: dict[str, torch.Tensor]) -> None:
    """Not by transformers' `load_adapter`, which takes only some versions of peft."""
    peft = import_extra("peft", extra="lora")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of several adapters in a model
        peft.inject_adapter_in_model(config, model, name)
    model._hf_peft_config_loaded = True  # for transformers, which saves the adapter alone then
    for module in of_peft(model):
        module.requires_grad_(False)
    for key, tensor in tensors.items():
        path = key.removeprefix(IN_FILE)
        if path.startswith("heads."):
            head, _, inner = path.removeprefix("heads.").partition(".")
            model.get_submodule(f"heads.{head}").modules_to_save[name].get_parameter(inner).copy_(tensor)
        else:
            layer, _, factor = path.removesuffix(".weight").rpartition(".")
            getattr(model.get_submodule(layer), factor)[name].weight.copy_(tensor)
    model.train(model.training)


def of_peft(model: MTSBertModel) -> list[nn.Module]:
    """The layers and heads that have adapters."""
    peft = import_extra("peft", extra="lora")
    kinds = (peft.tuners.tuners_utils.BaseTunerLayer, peft.utils.ModulesToSaveWrapper)
    return [module for module in model.modules() if isinstance(module, kinds)]


def switch_adapters(model: MTSBertModel, *, on: bool) -> None:
    """Has a model answer with its active adapter, or without. transformers' `enable_adapters` forgets the heads."""
    for module in of_peft(model):
        module.enable_adapters(on)


def _check_belongs(
    model: MTSBertModel, called: str, config: Any, shapes: dict[str, tuple], base_file: str | None
) -> None:
    """Raises `ValueError` for an adapter that is not for this very model, before anything is put into it."""
    tuners = import_extra("peft", extra="lora").tuners.tuners_utils
    if getattr(config, "bias", None) != "none":
        raise ValueError(
            f"The adapter {called!r} is no LoRA with `bias: none`, which alone can be changed for another."
        )
    expected = {}
    for name, (num_outputs, num_inputs) in linear_layers(model).items():
        if tuners.check_target_module_exists(config, name):
            expected[f"{IN_FILE}{name}.lora_A.weight"] = (config.r, num_inputs)
            expected[f"{IN_FILE}{name}.lora_B.weight"] = (num_outputs, config.r)
    for name, weight in head_weights(model).items():
        expected[IN_FILE + name] = tuple(weight.shape)
    saved = config.modules_to_save or ()
    if unsaved := [name for name in heads_of(model) if not any(name.endswith(one) for one in saved)]:
        raise ValueError(
            f"The adapter {called!r} does not fit the model, it has {saved} and not: {', '.join(unsaved)}."
        )
    if wrong := sorted(name for name in {*expected, *shapes} if expected.get(name) != shapes.get(name)):
        raise ValueError(
            f"The adapter {called!r} does not fit the model, which has {expected.get(wrong[0], 'nothing')} where the "
            f"adapter has {shapes.get(wrong[0], 'nothing')}: {wrong[0].removeprefix(IN_FILE)}."
        )
    if base_file is None:  # made by peft itself
        return
    kept, found = json.loads(Path(base_file).read_text(encoding="utf-8")), fingerprint_of(model)
    if differing := [key for key, value in found.items() if kept.get(key) != value]:
        raise ValueError(
            f"The adapter {called!r} is for another model, which it was trained on: {', '.join(differing)} differ. "
            f"The one that it is for was {kept.get('name')!r}."
        )


def linear_layers(model: MTSBertModel) -> dict[str, tuple[int, int]]:
    """Name → shape of the weight of all linear layers outside of heads, also of those that have adapters."""
    return {
        name.removesuffix(".base_layer"): tuple(module.weight.shape)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and ".lora_" not in name and not name.startswith("heads.")
    }


def head_weights(model: MTSBertModel) -> dict[str, torch.Tensor]:
    """The weights of the heads that the model had before adapters brought their own."""
    named = {name.replace(".original_module.", "."): weight for name, weight in model.heads.named_parameters()}
    return {f"heads.{name}": weight for name, weight in named.items() if ".modules_to_save." not in f".{name}"}


def heads_of(model: MTSBertModel) -> list[str]:
    """The names of the heads that have weights."""
    return sorted({".".join(name.split(".")[:2]) for name in head_weights(model)})


def shared_weights(model: MTSBertModel) -> dict[str, torch.Tensor]:
    """The weights that all adapters of a model share: those of the encoder and of the tasks' copies of its layers."""
    shared = {
        name.replace(".base_layer.", "."): weight
        for name, weight in model.named_parameters()
        if ".lora_" not in name and not name.startswith("heads.")
    }
    for name, module in model.named_modules():
        if isinstance(module, CaseEmbedding):  # in a checkpoint, one table
            shared = {key: weight for key, weight in shared.items() if not key.startswith(f"{name}.")}
            shared[f"{name}.weight"] = module.weight
    return dict(sorted(shared.items()))


def fingerprint_of(model: MTSBertModel) -> dict[str, Any]:
    """What must be the same in the model that an adapter is opened on: settings, and a digest of the weights."""
    digest = hashlib.sha256()
    for name, weight in sorted(shared_weights(model).items()):
        digest.update(name.encode())
        digest.update(weight.detach().float().cpu().contiguous().numpy())
    return {"heads": settings_of_heads(model.config), **settings_of_model(model.config), "weights": digest.hexdigest()}


def settings_of_model(config: MTSBertConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in OF_MODEL}


def settings_of_heads(config: MTSBertConfig) -> dict[str, dict]:
    return {
        task: {key: list_or_value(setting_of_head(settings, key)) for key in OF_HEADS}
        for task, settings in config.tasks.items()
    }


@torch.no_grad()
def merge_adapters(model: MTSBertModel) -> MTSBertModel:
    """
    Merges the active adapter of a model into its weights, in place, so that it can be trained, edited and saved like
    any other. A model without adapters stays as it is, and one that answers without them (`use_adapter(ask, None)`)
    loses them.

    Args:
        model ([`MTSBertModel`]): A model that was opened from the folder of an adapter, or trained with `lora_r`, or
            that peft has put one in (`get_peft_model`, `add_adapter`).

    Returns:
        [`MTSBertModel`]: The model, all of whose weights are trained.

    Example:

        >>> model = merge_adapters(load_pipeline("runs/one").model)
        >>> model.save_pretrained("runs/whole")
    """
    if not has_adapters(model):
        return model
    peft = import_extra("peft", extra="lora")
    if isinstance(model, peft.PeftModel):
        model = model.get_base_model()
    if isinstance(model.encoder, peft.PeftModel):
        model.encoder = model.encoder.merge_and_unload()
    for name, module in list(model.named_modules()):
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            if not module.disable_adapters:
                module.merge()
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, peft.utils.ModulesToSaveWrapper):
            own = module.original_module if module.disable_adapters else module.modules_to_save[module.active_adapter]
            model.set_submodule(name, own)
    model._hf_peft_config_loaded = False
    for hook in model.__dict__.pop("_lora_hooks", ()):
        hook.remove()
    # The second: the names that the weights have in peft's file, by which they would be saved.
    for attribute in ("peft_config", "_weight_conversions", "_loaded_adapters", *OF_TRAINER):
        model.__dict__.pop(attribute, None)
    model.config.name_or_path = ""
    model.requires_grad_(True)
    return model


def has_adapters(model: nn.Module) -> bool:
    """Whether peft has put something into a model."""
    kinds = {kind for module in model.modules() for kind in type(module).__mro__}
    return any(kind.__module__.startswith("peft.") for kind in kinds)
