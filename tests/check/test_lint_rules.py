"""Every rule has a folder with a bad file, whose faults are marked at their lines, and a good one that is clean."""

import re
from pathlib import Path

import pytest

from prototxt_gen.check.lint import NOTE, Options, Registry, lint, registry
from prototxt_gen.core.errors import Error

CASES = Path(__file__).parent / "lint"
RULES = registry.rules()


def findings_of(path, rules):
    return lint(path.read_text(), str(path), Options(rules))


def plain(text):
    """A prototxt without comments, its words parted by one blank."""
    return " ".join(re.sub(r"#.*", "", text).split())


def test_every_rule_has_a_folder_and_every_folder_a_rule():
    assert {rule.id for rule in RULES} == {folder.name for folder in CASES.iterdir() if folder.is_dir()}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_bad_file_is_found_at_the_marked_lines(rule):
    path = CASES / rule.id / "bad.prototxt"
    marked = [number for number, line in enumerate(path.read_text().splitlines(), 1) if line.endswith(f"# {rule.id}")]
    found = [finding for finding in findings_of(path, [rule])]
    assert marked and sorted({finding.line for finding in found}) == marked, found
    assert {(finding.rule, finding.file) for finding in found} == {(rule.id, str(path))}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_good_file_is_clean_of_all_rules(rule):
    assert [one for one in findings_of(CASES / rule.id / "good.prototxt", RULES) if one.severity != NOTE] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_explained_examples_stand_in_the_files(rule):
    for kind in ("bad", "good"):
        text = (CASES / rule.id / f"{kind}.prototxt").read_text()
        assert plain(getattr(rule, kind)) in plain(text), kind
    assert plain(rule.bad) != plain(rule.good)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_the_row_reads_as_sentences(rule):
    assert re.fullmatch(r"PG\d{3}", rule.id) and re.fullmatch(r"[a-z0-9-]+", rule.name)
    assert not rule.checks.endswith(".") and rule.why.endswith(".") and rule.mend.endswith(".")


def test_the_registry_refuses_a_second_owner():
    rules = Registry()
    row = dict(about="net", checks="", why="", mend="", bad="", good="")
    rules.add("PG901", "one", **row)(list)
    for id, name in (("PG901", "two"), ("PG902", "one")):
        with pytest.raises(ValueError, match="already"):
            rules.add(id, name, **row)(list)


def test_rules_are_chosen_by_id_beginning_and_name():
    ids = [rule.id for rule in registry.chosen(["pg10", "frozen-bn"], ["PG102", "unread-top"])]
    assert ids == [f"PG10{number}" for number in (1, 4, 5, 6, 7, 8, 9)] + ["PG301"]
    with pytest.raises(Error) as caught:
        registry.chosen([], ["dangling-botom"])
    assert "did you mean 'dangling-bottom'?" in caught.value.hint
