"""
One encoder for sentence embeddings, text labels, named entities and pairs of texts, trained together.

What users import is listed here, and loaded when it is first asked for: `import mtsbert` costs nothing. What is
not listed may change without notice.
"""

import importlib


__version__ = "0.2.0"

_HOMES = {  # module → the public names in it
    "configuration_mtsbert": ("MTSBertConfig",),
    "modeling_mtsbert": (
        "MTSBertForSequenceClassification",
        "MTSBertForTokenClassification",
        "MTSBertModel",
        "MTSBertOutput",
    ),
    "pipeline_mtsbert": ("MTSBertPipeline",),
    "mtsbert.adapters.saved": ("use_adapter",),
    "mtsbert.arguments": ("MTLTrainingArguments",),
    "mtsbert.data.collator": ("MultiTaskCollator",),
    "mtsbert.data.loading": ("TaskData", "infer_tasks", "load_data"),
    "mtsbert.distillation.layers": ("keep_layers",),
    "mtsbert.exports.pipeline": ("OnnxPipeline", "load_pipeline"),
    "mtsbert.network.adapters": ("merge_adapters",),
    "mtsbert.network.starting_point": ("resolve_name",),
    "mtsbert.preparation": ("prepare",),
    "mtsbert.training.trainer": ("MTSBertTrainer",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]


def __getattr__(name: str):
    if name not in _HOME_OF:
        raise AttributeError(f"module 'mtsbert' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
