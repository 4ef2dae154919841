"""Splits the model into parts, from bottom to top, for freezing and for learning rates."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from heads_mtsbert import layer_list
from modeling_mtsbert import MTSBertModel


EMBEDDINGS = "encoder.embeddings"
OTHER = "encoder.other"  # everything above the layers, such as a final norm


@dataclass
class Part:
    modules: list[nn.Module]
    parameters: list[nn.Parameter]

    @classmethod
    def of(cls, module: nn.Module) -> "Part":
        return cls(list(module.modules()), list(module.parameters()))

    @property
    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters)


def layer_name(index: int) -> str:
    return f"encoder.layer.{index}"


def head_name(task: str) -> str:
    return f"heads.{task}"


def task_layer_name(index: int) -> str:
    """Returns the name of the copy of the encoder's layer `index` that the tasks have."""
    return f"task_layers.{index}"


def is_of_encoder(name: str) -> bool:
    return name.startswith("encoder.")


def is_head(name: str) -> bool:
    return name.startswith("heads.")


def encoder_layers(model: MTSBertModel) -> nn.ModuleList:
    """Returns the encoder's layers, from the bottom. Raises `ValueError` if it does not have a single list of them."""
    num_layers = model.config.get_text_config().num_hidden_layers
    layers = layer_list(model.encoder, num_layers)
    if layers is not None:
        return layers
    raise ValueError(
        f"The encoder {type(model.encoder).__name__} does not expose a list of its {num_layers} layers: "
        "`num_frozen_layers`, `gradual_unfreezing`, `adaptive_freezing` and `layer_decay` cannot be used with it."
    )


def encoder_embeddings(model: MTSBertModel) -> nn.Module:
    """Returns the encoder's `embeddings` module, or its word embeddings if there is none."""
    return getattr(model.encoder, "embeddings", None) or model.encoder.get_input_embeddings()


def encoder_parts(model: MTSBertModel) -> dict[str, Part]:
    """
    Splits the encoder into embeddings, layers (if it exposes them) and the rest. Every parameter is in exactly one
    part.

    The embeddings include everything else that the first layer's output depends on, such as a projection between the
    two or a position bias that all layers share.
    """
    parts = {EMBEDDINGS: Part.of(encoder_embeddings(model))}
    try:
        layers = encoder_layers(model)
    except ValueError:
        layers = []  # code that needs the layers calls `encoder_layers` itself and gets the error
    parts |= {layer_name(index): Part.of(layer) for index, layer in enumerate(layers)}
    taken = {id(module) for part in parts.values() for module in part.modules}
    others = [module for module in model.encoder.modules() if id(module) not in taken]
    own = [parameter for module in others for parameter in module.parameters(recurse=False)]
    below = _used_by(layers[0], own, model) if own and len(layers) else set()
    parts[EMBEDDINGS].parameters += [parameter for parameter in own if id(parameter) in below]
    above = [parameter for parameter in own if id(parameter) not in below]
    return parts | {OTHER: Part(others, above)}


def model_parts(model: MTSBertModel) -> dict[str, Part]:
    """Splits the model into the parts of the encoder, followed by the tasks' copies of layers and the heads."""
    return (
        encoder_parts(model)
        | _task_layer_parts(model)
        | {head_name(task): Part.of(head) for task, head in model.heads.items()}
    )


def copied_layers(model: MTSBertModel) -> range:
    """Returns the indices of the encoder's layers that the tasks have copies of."""
    num_layers = model.config.get_text_config().num_hidden_layers
    return range(num_layers - model.config.num_task_layers, num_layers)


def _task_layer_parts(model: MTSBertModel) -> dict[str, Part]:
    if model.task_layers is None:
        return {}
    parts = {
        task_layer_name(index): Part.of(layer)
        for index, layer in zip(copied_layers(model), model.task_layers.layers, strict=True)
    }
    if model.task_layers.norm is not None:
        last, norm = parts[task_layer_name(copied_layers(model)[-1])], Part.of(model.task_layers.norm)
        last.modules += norm.modules
        last.parameters += norm.parameters
    return parts


def _used_by(layer: nn.Module, parameters: list[nn.Parameter], model: MTSBertModel) -> set[int]:
    """Returns the `id()` of each parameter that a layer's output depends on, found with a text of two tokens."""
    outputs: list[torch.Tensor] = []
    hook = layer.register_forward_hook(
        lambda module, inputs, output: outputs.append(output[0] if isinstance(output, tuple) else output)
    )
    try:
        with _as_found(model, parameters), torch.enable_grad():
            model.encoder(input_ids=torch.ones((1, 2), dtype=torch.long, device=model.device))
            if not outputs[0].requires_grad:
                return set()
            gradients = torch.autograd.grad(outputs[0].sum(), parameters, allow_unused=True)
    finally:
        hook.remove()
    return {id(p) for p, gradient in zip(parameters, gradients, strict=True) if gradient is not None}


@contextmanager
def _as_found(model: MTSBertModel, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Temporarily puts the model in evaluation mode and enables gradients for these parameters."""
    training = {module: module.training for module in model.modules()}
    required = [parameter.requires_grad for parameter in parameters]
    try:
        model.eval()
        for parameter in parameters:
            parameter.requires_grad_(True)
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter, value in zip(parameters, required, strict=True):
            parameter.requires_grad_(value)
