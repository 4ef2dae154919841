"""What training uses of the files of the model: beside `mtl` in a clone, in the same package where it is installed."""

try:  # installed: this is `mtsbert.mtl`
    from ..configuration_mtsbert import (
        PAIR_CLASSIFICATION,
        PAIR_SIMILARITY,
        PAIR_TYPES,
        SEQUENCE_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
        MTSBertConfig,
        check_task_settings,
        check_tasks,
    )
    from ..entities_mtsbert import (
        IGNORE_INDEX,
        OUTSIDE,
        TAG_SCHEMES,
        bio_labels,
        check_spans,
        decode_tags,
        entity_types,
        join_words,
        spans_to_tags,
        tags_to_spans,
        to_bio,
        visible_offsets,
        vote,
        without_article_and_possessive,
    )
    from ..heads_mtsbert import is_labelled, item_losses, num_items
    from ..modeling_mtsbert import MTSBertModel
    from ..pipeline_mtsbert import MTSBertPipeline
except ImportError:  # run from a clone, with the repository root on `sys.path`
    from configuration_mtsbert import (
        PAIR_CLASSIFICATION,
        PAIR_SIMILARITY,
        PAIR_TYPES,
        SEQUENCE_CLASSIFICATION,
        TOKEN_CLASSIFICATION,
        MTSBertConfig,
        check_task_settings,
        check_tasks,
    )
    from entities_mtsbert import (
        IGNORE_INDEX,
        OUTSIDE,
        TAG_SCHEMES,
        bio_labels,
        check_spans,
        decode_tags,
        entity_types,
        join_words,
        spans_to_tags,
        tags_to_spans,
        to_bio,
        visible_offsets,
        vote,
        without_article_and_possessive,
    )
    from heads_mtsbert import is_labelled, item_losses, num_items
    from modeling_mtsbert import MTSBertModel
    from pipeline_mtsbert import MTSBertPipeline


__all__ = [
    "IGNORE_INDEX",
    "OUTSIDE",
    "PAIR_CLASSIFICATION",
    "PAIR_SIMILARITY",
    "PAIR_TYPES",
    "SEQUENCE_CLASSIFICATION",
    "TAG_SCHEMES",
    "TOKEN_CLASSIFICATION",
    "MTSBertConfig",
    "MTSBertModel",
    "MTSBertPipeline",
    "bio_labels",
    "check_spans",
    "check_task_settings",
    "check_tasks",
    "decode_tags",
    "entity_types",
    "is_labelled",
    "item_losses",
    "join_words",
    "num_items",
    "spans_to_tags",
    "tags_to_spans",
    "to_bio",
    "visible_offsets",
    "vote",
    "without_article_and_possessive",
]
