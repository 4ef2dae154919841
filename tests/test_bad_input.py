"""Tests that the page about bad input agrees with the tests: each row of a table names tests that exist."""

import re


def test_every_line_about_bad_input_names_its_tests(root):
    lines = (root / "docs" / "bad_input.md").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|") and not re.match(r"\|(---| wrong input \|| what \|)", line)]
    assert len(rows) > 80
    sources = [path.read_text(encoding="utf-8") for path in (root / "tests").rglob("test_*.py")]
    existing = set(re.findall(r"^def (test_\w+)\(", "\n".join(sources), re.MULTILINE))
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.split("|")[-2])
        assert named, row
        assert set(named) <= existing, row
