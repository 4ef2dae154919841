"""
Low-rank adapters (LoRA, arXiv 2106.09685) by peft: the encoder's weights stay as they are, and small factors beside
some of them are trained.

The model's `state_dict` holds the merged weights under their usual names, so that every checkpoint is one without
adapters. The factors themselves are kept beside a checkpoint that a run may be resumed from.
"""

import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from modeling_mtsbert import MTSBertModel
from mtsbert.arguments import MTLTrainingArguments
from mtsbert.freezing_arguments import OF_ADAPTERS
from mtsbert.letter_case.embedding import case_vectors
from mtsbert.network.adapters import has_adapters
from mtsbert.network.freezing import fixed_by_hand
from mtsbert.settings import import_extra


logger = logging.getLogger(__name__)

ADAPTERS_FILE = "adapters.safetensors"
ADAPTER = "default"  # peft's name for the only one
ALL_LINEAR = "all-linear"  # and its word for the names of all linear layers


def add_adapters(model: MTSBertModel, args: MTLTrainingArguments) -> None:
    """
    Puts adapters into the encoder and into the tasks' copies of its layers, and freezes the weights of both, for
    [`Freezing`] to see; nothing without `lora_r`. A model that has such adapters already keeps them. Vectors for
    capital letters (`letter_case`), new as a rule like the heads, are trained unless adapters are saved alone.

    Args:
        model ([`MTSBertModel`]): The model. It computes the same afterwards as before.
        args ([`MTLTrainingArguments`]): `lora_r`, `lora_alpha`, `lora_dropout` and `lora_target`, by default what peft
            takes for such an encoder (queries and values, mostly), or all linear layers.

    Raises:
        `ValueError`: if peft is not installed, nothing in the encoder is called like a target, or the model has other
            adapters.
    """
    asked = lora_settings(args)
    if given := getattr(model, "_lora_settings", {}):
        if given != asked:
            raise ValueError(
                f"The model has adapters of {given}, and this Trainer asks for {asked or 'none'}. Go on with the "
                "same, or merge them (`mtsbert.merge_adapters`)."
            )
        return
    if not asked:
        return
    named = dict(model.named_parameters())
    by_hand = {id(named[name]) for name in fixed_by_hand(model, named)}
    if len(model.heads) and by_hand >= set(map(id, model.heads.parameters())) and not args.freeze_heads:
        logger.warning(
            "All heads were frozen (`requires_grad`) before the Trainer got the model, and stay as they are."
        )
    peft = import_extra("peft", extra="lora")
    linear = [name for name, module in model.encoder.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(
            f"`lora_r`: adapters are for linear layers (torch.nn.Linear), and {type(model.encoder).__name__} has none."
        )
    usual = peft.utils.TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(
        model.config.encoder_config.model_type, ()
    )
    targets = args.lora_target or [name for name in _last(linear) if name in usual] or [ALL_LINEAR]
    if targets == [ALL_LINEAR]:
        targets = _last(linear)
    if unknown := [target for target in targets if not any(f".{name}".endswith(f".{target}") for name in linear)]:
        raise ValueError(
            f"`lora_target` names {unknown}; the linear layers of the encoder are {_last(linear)}, and {ALL_LINEAR!r} "
            "alone stands for them all."
        )
    config = peft.LoraConfig(
        r=args.lora_r, lora_alpha=args.lora_alpha, lora_dropout=args.lora_dropout, target_modules=targets
    )
    trained = {id(weight) for weight in [*model.heads.parameters(), *(case_vectors(model) if args.lora_merge else [])]}
    held = set(map(id, named.values())) - trained
    at_once = import_extra("mtsbert.adapters.at_once", extra="lora")
    for module in filter(None, (model.encoder, model.task_layers)):
        peft.inject_adapter_in_model(config, module)
        at_once.compute_at_once(module)
    named = dict(model.named_parameters())  # many are called otherwise by now
    # For `Freezing`, which must not take what peft has frozen for what the user froze.
    model._held_by_adapters = {name for name, weight in named.items() if id(weight) in held}
    model._fixed_names = {name for name, weight in named.items() if id(weight) in by_hand}
    model._left_by_trainer = {name: weight.requires_grad for name, weight in named.items()}
    model._lora_settings = asked
    model._lora_hooks = [
        model.register_state_dict_post_hook(_merge), model.register_load_state_dict_pre_hook(_split)
    ]  # fmt: skip


def check_no_others(model: nn.Module) -> None:
    """Raises `ValueError` for a model with adapters that this module has not put in."""
    if not hasattr(model, "_lora_settings") and has_adapters(model):
        raise ValueError(
            "The model has adapters that peft put in (`get_peft_model`, `add_adapter`, or the folder of one), and a "
            "Trainer would leave its heads frozen, or save it so that it cannot be opened. Give it without them and "
            "set `lora_r`; to go on from what they have learned, merge them (`mtsbert.merge_adapters`)."
        )


def lora_settings(args: MTLTrainingArguments) -> dict:
    """What must be the same to go on with adapters; empty without them."""
    names = ("lora_r", *OF_ADAPTERS) if args.lora_r is not None else ()
    return {name: getattr(args, name) for name in names}


def _last(names: list[str]) -> list[str]:
    """The last parts of dotted names, each once."""
    return sorted({name.rpartition(".")[2] for name in names})


def adapted_modules(model: MTSBertModel) -> Iterator[tuple[str, nn.Module]]:
    """Yields the modules that have adapters, with their names."""
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "lora_A"):
            yield name, module


def _merge(model: MTSBertModel, state: dict, prefix: str, metadata) -> None:
    """Hook of `state_dict`: replaces what peft has made of a weight by the merged weight, under its name."""
    for name, module in adapted_modules(model):
        inner = f"{prefix}{name}."
        merged = module.base_layer.weight.detach() + module.get_delta_weight(ADAPTER).detach()
        for key in [key for key in state if key.startswith(inner)]:
            value = state.pop(key)
            if key.startswith(f"{inner}base_layer."):
                state[inner + key.removeprefix(f"{inner}base_layer.")] = value
        state[f"{inner}weight"] = merged


def _split(model: MTSBertModel, state: dict, prefix: str, *others) -> None:
    """
    Hook of `load_state_dict`: merged weights stand for no others and no adapters. [`restore_adapters`] follows where
    there are some.
    """
    for name, module in adapted_modules(model):
        inner = f"{prefix}{name}."
        for key in [key for key in state if key.startswith(inner)]:
            state[f"{inner}base_layer.{key.removeprefix(inner)}"] = state.pop(key)
        for key, factor in module.state_dict().items():
            if not key.startswith("base_layer."):
                state[inner + key] = torch.zeros_like(factor) if key.startswith("lora_B") else factor


def _factors(model: MTSBertModel) -> dict[str, torch.Tensor]:
    return {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, module in adapted_modules(model)
        for key, value in module.state_dict().items()
    }


def save_adapters(model: MTSBertModel, folder: Path) -> None:
    """Writes the adapters, and the weights that they are added to, beside a checkpoint; nothing without adapters."""
    if factors := _factors(model):
        save_file(factors, folder / ADAPTERS_FILE)


def restore_adapters(model: MTSBertModel, folder: Path) -> None:
    """Puts back what `save_adapters` wrote, after the merged weights have been loaded; nothing without adapters."""
    adapted = dict(adapted_modules(model))
    if not adapted:
        return
    kept = load_file(folder / ADAPTERS_FILE)
    for name, module in adapted.items():
        own = {key.removeprefix(f"{name}."): value for key, value in kept.items() if key.startswith(f"{name}.")}
        module.load_state_dict(own)
