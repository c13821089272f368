"""Slow tests do not rot: each is in one of the groups that CI goes through."""

import re
from collections import Counter
from pathlib import Path

from tests.slow_groups import GROUPS, group_of

MARKER = "pytest.mark." + "slow"


def test_every_slow_test_names_its_group_and_every_group_has_some() -> None:
    wrong, found = [], set()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        for given in re.findall(re.escape(MARKER) + r'(?:\(group="(\w+)"\))?', path.read_text()):
            found.add(given)
            if given not in GROUPS:
                wrong.append(f"{path.name}: group {given!r} is not in tests/slow_groups.py")
    assert not wrong, "\n".join(wrong)
    assert found == set(GROUPS)


def test_commits_take_the_groups_in_turn() -> None:
    taken = Counter(group_of(f"{number:040x}") for number in range(10 * len(GROUPS)))
    assert taken == dict.fromkeys(GROUPS, 10)
