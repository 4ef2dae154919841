"""Tests that no command takes the beginning of a flag for the flag."""

import ast

import pytest


def test_no_parser_takes_abbreviations(root):
    found, wrong = 0, []
    for folder in ("mtsbert", "data_prep", "benchmarks"):
        for path in sorted((root / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("ArgumentParser"):
                    found += 1
                    options = {option.arg: ast.unparse(option.value) for option in node.keywords}
                    if options.get("allow_abbrev") != "False":
                        wrong.append(f"{path.relative_to(root)}:{node.lineno}")
    assert found > 20
    assert wrong == []


@pytest.mark.parametrize("flags", [["--seed", "7"], ["--strat", "full"]])
def test_a_study_does_not_read_seed_as_seeds(flags, capsys):
    from mtsbert.commands.study import main

    with pytest.raises(SystemExit):
        main(["--config", "recipe.yaml", *flags])
    assert "unrecognized arguments" in capsys.readouterr().err
