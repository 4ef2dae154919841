"""The multi-task pipeline on exported checkpoints, with the same inputs and outputs as on a model."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import BatchEncoding, PreTrainedTokenizerBase

from configuration_mtsbert import PAIR_TYPES, MTSBertConfig
from mtsbert.exports import onnx, openvino
from mtsbert.exports.graphs import LOGITS, SENTENCE_EMBEDDING, RuntimeGraphs, make_exportable
from mtsbert.machine import ANSWER_PRECISIONS, uses_bf16
from mtsbert.network.starting_point import is_export, open_tokenizer, pipeline_of_checkpoint
from pipeline_mtsbert import MTSBertPipeline


GRAPH_FILES = (onnx.TEXTS_FILE, onnx.PAIRS_FILE, openvino.TEXTS_FILE, openvino.PAIRS_FILE)


@dataclass
class ExportedOutput:
    """The fields of `MTSBertOutput` that the pipeline reads."""

    pooler_output: torch.Tensor
    logits: dict[str, torch.Tensor]


class ExportedModel:
    """An exported checkpoint with the interface of the model."""

    dtype = torch.float32
    device = torch.device("cpu")

    def __init__(self, config: MTSBertConfig, graphs: RuntimeGraphs):
        self.config = config
        self.graphs = graphs

    def __call__(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        *,
        is_alone: bool = True,
        tasks: list[str] | None = None,
        **unused,
    ) -> ExportedOutput:
        chosen = self.config.select_tasks(tasks)
        names = [SENTENCE_EMBEDDING, *(LOGITS + task for task in chosen if chosen[task]["type"] not in PAIR_TYPES)]
        answers = self.graphs.texts(names, is_alone=is_alone, input_ids=input_ids, attention_mask=attention_mask)
        embedding = answers.pop(SENTENCE_EMBEDDING)
        return ExportedOutput(embedding, {name.removeprefix(LOGITS): logits for name, logits in answers.items()})

    def pair_logits(self, task: str, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return self.graphs.pairs([LOGITS + task], u=u, v=v)[LOGITS + task]


class ExportedPipeline(MTSBertPipeline):
    """
    Answers like [`MTSBertPipeline`], on the graphs of an exported checkpoint. The whole graph is always computed;
    `tasks` only saves the steps after it.

    Args:
        model ([`ExportedModel`]): The exported checkpoint.
        tokenizer (`PreTrainedTokenizerBase`): Its tokenizer.
        parameters: Defaults for every call; see [`~MTSBertPipeline.__call__`].
    """

    def __init__(self, model: ExportedModel, tokenizer: PreTrainedTokenizerBase, **parameters):
        self.model = model
        self.tokenizer = tokenizer
        self.device = self.model.device
        self._batch_size = None
        _, self._forward_params, self._postprocess_params = self._sanitize_parameters(**parameters)

    @property
    def num_positions(self) -> int | None:
        return self.model.config.max_position_embeddings

    def _outputs(self, inputs: BatchEncoding, *, is_alone: bool, tasks: list[str] | None) -> ExportedOutput:
        return self.model(**inputs, is_alone=is_alone, tasks=tasks)


class OnnxPipeline(ExportedPipeline):
    """
    Answers like [`MTSBertPipeline`], from a folder that `mtsbert export` wrote. onnxruntime always computes the whole
    graph; `tasks` only saves the steps after it.

    Args:
        folder (`str` or `Path`): The exported model.
        parameters: Defaults for every call; see [`~MTSBertPipeline.__call__`].

    Raises:
        `ValueError`: where the folder is no export, or has no tokenizer, or onnxruntime is not installed.
    """

    def __init__(self, folder: str | Path, **parameters):
        folder = Path(folder)
        if not (folder / onnx.TEXTS_FILE).is_file():
            raise ValueError(f"{folder} has no {onnx.TEXTS_FILE}; `mtsbert export` writes such a folder.")
        config = MTSBertConfig.from_pretrained(folder)
        graphs = onnx.OnnxGraphs(folder)
        super().__init__(ExportedModel(config, graphs), open_tokenizer(folder, config.encoder_config), **parameters)


def load_pipeline(
    name_or_path: str | Path, *, revision: str | None = None, precision: str = "fp32"
) -> MTSBertPipeline:
    """
    Opens the multi-task pipeline of a checkpoint, or of what `mtsbert export` made of it. The classes are those of
    this repository: no code of the checkpoint runs.

    Args:
        name_or_path (`str` or `Path`): The folder or Hub id of a checkpoint, or the folder of an export to ONNX or
            OpenVINO.
        revision (`str`, *optional*): Branch, tag or commit of a Hub id.
        precision (`str`, *optional*, defaults to `"fp32"`): What an OpenVINO graph computes in: `"fp32"`, `"bf16"`,
            or `"auto"`, which is bf16 if the CPU supports it natively. Has no effect on other models: use
            `torch.autocast` for checkpoints.

    Raises:
        `ValueError`: where there is no checkpoint of ours, or no tokenizer in it, or the runtime of an export is not
            installed, or the precision is unknown, or an export is given a revision.

    Example:

        >>> ask = load_pipeline("runs/quickstart")
        >>> ask("Oslo beat Lima in the final", tasks=["topic"])["topic"]["label"]
        'Sports'
    """
    if precision not in ANSWER_PRECISIONS:
        raise ValueError(f"`precision` is {precision!r}; allowed are {list(ANSWER_PRECISIONS)}.")
    folder = Path(name_or_path)
    if is_export(folder) and revision is not None:
        raise ValueError(f"{folder} is an export, which has no revision {revision!r}; only Hub ids have.")
    if (folder / onnx.TEXTS_FILE).is_file():
        return OnnxPipeline(folder)
    if (folder / openvino.TEXTS_FILE).is_file():
        openvino.import_openvino()
        config = MTSBertConfig.from_pretrained(folder)
        uses_half = uses_bf16(torch.device("cpu"), precision)
        graphs = openvino.OpenVinoGraphs.of(folder, precision="bf16" if uses_half else "fp32")
        return ExportedPipeline(ExportedModel(config, graphs), open_tokenizer(folder, config.encoder_config))
    return pipeline_of_checkpoint(str(name_or_path), revision=revision)


def on_openvino(pipeline: MTSBertPipeline, *, precision: str = "fp32") -> ExportedPipeline:
    """
    Converts the model of a pipeline to OpenVINO, in memory. It takes some seconds, and the memory of a second model.

    Raises:
        `ValueError`: if the converted model does not answer as the model does.
    """
    make_exportable(pipeline)
    graphs = openvino.OpenVinoGraphs(*openvino.converted(pipeline), precision=precision)
    return ExportedPipeline(ExportedModel(pipeline.model.config, graphs), pipeline.tokenizer)
