"""Writes the dataset card (README.md): how to load the dataset, and how far its labels can be trusted."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class BuildSummary:
    """Facts about how a dataset was built, for its card."""

    source: str
    license: str
    labellers: list[str]
    spacy_version: str
    has_parts: bool = True
    """Whether the source tells title and description apart."""
    truecases_headlines: bool = False
    link_share: float = 0.0
    """Share of the training texts with a made-up link."""
    num_rows: dict[str, int] = field(default_factory=dict)
    num_empty: int = 0
    num_cleaned: int = 0
    type_counts: Counter = field(default_factory=Counter)


def dataset_card(summary: BuildSummary) -> str:
    # No `configs` section: the file names already define the splits, and with this section, `load_dataset` (datasets
    # 5.2) keeps returning the old rows of a folder that was built again.
    rows = "\n".join(f"| {split} | {count:,} |" for split, count in summary.num_rows.items())
    types = "\n".join(f"| {name} | {count:,} |" for name, count in summary.type_counts.most_common())
    total = sum(summary.num_rows.values())
    text = "title and description, joined by a space" if summary.has_parts else "the text of the source"
    return f"""---
license: {summary.license}
language:
- en
task_categories:
- text-classification
- token-classification
tags:
- mtsbert
- silver-labels
---

# News with topics and entities

Built by mtsbert's `data_prep` from {summary.source}.

**The entities are machine labels.** They were made by {_pipelines(summary)} (spaCy
{summary.spacy_version}) and nobody has checked them. A score against them measures agreement with their maker,
not accuracy.

{_choices(summary)}- A leading article (the, a, an) and a possessive 's are not part of an entity.

| split | rows |
|---|---|
{rows}

## Columns

- `text`: {text}. Feed debris (escaped HTML, lost line breaks) was removed from
  {summary.num_cleaned:,} of {total:,} texts; {summary.num_empty:,} rows without any text were left out.
- `label`: the topic, as the source gives it.
- `entities`: `{{start, end, label}}` in characters of `text`, sorted, not overlapping. Everything below derives
  from it.
- `tokens`, `ner_tags`: spaCy's words and their BIO tags, for scripts that want words.

## Entities by type

| type | count |
|---|---|
{types}

## Loading

```python
from datasets import load_dataset

dataset = load_dataset("path/to/this/folder")
```
"""


def _pipelines(summary: BuildSummary) -> str:
    if len(summary.labellers) == 1:
        return f"the spaCy pipeline {summary.labellers[0]}"
    return (
        f"a vote of the spaCy pipelines {', '.join(summary.labellers)}: an entity is what more than half of them "
        "found; where at least half found something else, its label is null, and its words have the tag -100"
    )


def _seam(summary: BuildSummary) -> str:
    if summary.has_parts:
        return "- Title and description were labelled apart, so no entity crosses the seam between them.\n"
    return (
        "- The source has title and description in one text, so they were labelled together, and an entity may cross "
        "the seam between them.\n"
    )


def _headlines(summary: BuildSummary) -> str:
    if not summary.truecases_headlines:
        return ""
    return "- Headlines That Capitalise Their Words were labelled as if written like a sentence.\n"


def _choices(summary: BuildSummary) -> str:
    return _seam(summary) + _headlines(summary) + _links(summary)


def _links(summary: BuildSummary) -> str:
    if not summary.link_share:
        return ""
    return f"- About {summary.link_share:.0%} of the training texts end with a link that was made up.\n"
