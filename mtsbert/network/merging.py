"""Merges adapters of peft into the weights of a model."""

import torch

from modeling_mtsbert import MTSBertModel
from mtsbert.settings import import_extra


@torch.no_grad()
def merge_adapters(model: MTSBertModel) -> MTSBertModel:
    """
    Merges the active adapter of a model that was opened from the folder of one, in place, so that it is like any other
    model, which is not the one in the folder of its checkpoint any more. A model without adapters stays as it is.
    """
    if not getattr(model, "_hf_peft_config_loaded", False):
        return model
    peft = import_extra("peft", extra="lora")
    for name, module in list(model.named_modules()):
        if isinstance(module, peft.tuners.tuners_utils.BaseTunerLayer):
            module.merge()
            model.set_submodule(name, module.get_base_layer())
        elif isinstance(module, peft.utils.ModulesToSaveWrapper):
            model.set_submodule(name, module.modules_to_save[module.active_adapter])
    model._hf_peft_config_loaded = False
    model.__dict__.pop("_weight_conversions", None)  # by which saving would name the weights as in peft's file
    del model.peft_config
    model.config.name_or_path = ""
    model.requires_grad_(True)
    return model
