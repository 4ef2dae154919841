"""The model's parts from the bottom up: the units of freezing, thawing and learning rates."""

from dataclasses import dataclass

from torch import nn

from modeling_mtsbert import MTSBertModel


EMBEDDINGS = "encoder.embeddings"
OTHER = "encoder.other"  # what is neither embeddings nor layer: a norm above the last layer, say


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


def encoder_layers(model: MTSBertModel) -> nn.ModuleList:
    """The encoder's layers from the lowest up. Raises `ValueError` where the encoder does not expose them."""
    num_layers = model.config.get_text_config().num_hidden_layers
    for module in model.encoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(
        f"The encoder {type(model.encoder).__name__} does not expose a list of its {num_layers} layers: "
        "`num_frozen_layers`, `gradual_unfreezing` and `layer_decay` cannot be used with it."
    )


def encoder_embeddings(model: MTSBertModel) -> nn.Module:
    """Everything below the first layer: the encoder's `embeddings`, or its word embeddings alone."""
    return getattr(model.encoder, "embeddings", None) or model.encoder.get_input_embeddings()


def encoder_parts(model: MTSBertModel) -> dict[str, Part]:
    """The encoder's embeddings, its layers where it exposes them, and all else; every parameter is in one part."""
    parts = {EMBEDDINGS: Part.of(encoder_embeddings(model))}
    try:
        parts |= {layer_name(index): Part.of(layer) for index, layer in enumerate(encoder_layers(model))}
    except ValueError:
        pass  # whoever needs the layers asks for them and gets the error
    taken = {id(module) for part in parts.values() for module in part.modules}
    others = [module for module in model.encoder.modules() if id(module) not in taken]
    own = [parameter for module in others for parameter in module.parameters(recurse=False)]
    return parts | {OTHER: Part(others, own)}


def model_parts(model: MTSBertModel) -> dict[str, Part]:
    """The encoder's parts, then every head."""
    return encoder_parts(model) | {head_name(task): Part.of(head) for task, head in model.heads.items()}
