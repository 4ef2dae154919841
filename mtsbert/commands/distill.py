"""
Makes a smaller model from a checkpoint (`mtsbert distill`): it has some of its layers, and learns its answers.

It runs `mtsbert train`, where the checkpoint is the `teacher` as well as the model of which `num_layers` are kept. The
recipe is one for `mtsbert train`, such as that of the teacher, whose `encoder_name_or_path` is ignored.
"""

import argparse
from pathlib import Path

from mtsbert.commands import train
from mtsbert.recipe import names_set_by, parse_arguments, read_yaml


HELD = "embedding_distillation"
DEFAULT_WEIGHT = 2.0  # of `embedding_distillation`, where neither recipe nor flags say anything

DESCRIPTION = """Makes a smaller and faster model from a checkpoint.

The student has some of the teacher's layers, evenly spaced and with the last one, its embeddings and its heads. It is
trained as a recipe says, on the labels, on the teacher's answers and on its sentence embedding.
"""


def main(argv: list[str] | None = None, *, prog: str = "mtsbert distill") -> dict[str, float]:
    """Trains the student and returns all metrics. Invalid input raises `ValueError` first."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        prog=prog,
        description=DESCRIPTION,
        epilog="All flags of `mtsbert train` may follow, and win over the recipe.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="The teacher: an mtsbert checkpoint, a folder or a Hub id.")
    parser.add_argument("--layers", required=True, type=int, help="Number of encoder layers of the student.")
    parser.add_argument("--config", required=True, type=Path, help="Recipe with the data, as for `mtsbert train`.")
    args, flags = parser.parse_known_args(argv)
    given = names_set_by(flags)
    if set_twice := [name for name in ("teacher", "model_name_or_path", "num_layers") if name in given]:
        parser.error(f"--{set_twice[0]} is set by --model and --layers; leave it out, or use `mtsbert train`")
    own = [f"--model_name_or_path={args.model}", f"--teacher={args.model}", f"--num_layers={args.layers}"]
    command = [f"--config={args.config}", *flags, *own]
    if not is_set(HELD, args.config, flags):
        _, _, training_args = parse_arguments(command, prog)
        if not training_args.freeze_encoder or training_args.thaw_at is not None:  # else, the embedding cannot move
            command.append(f"--{HELD}={DEFAULT_WEIGHT}")
    return train.main(command, prog=prog)


def is_set(name: str, recipe: Path, flags: list[str]) -> bool:
    """Whether a recipe or flags set an argument of `mtsbert train`."""
    return name in names_set_by(flags) or name in read_yaml(recipe, "Recipe", dict)
