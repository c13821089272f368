"""Is this commit fit to be released under a tag? `make release TAG=v0.2.0` asks, then builds the wheel.

    python -m tests.release v0.2.0

The version stands in pyproject.toml alone; the tag must equal it, and CHANGELOG.md must say what is in it, with a date.
"""

import argparse
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
STORES = Path("tests/golden")  # store_<version>.tar.gz: a root of each released version


def problems(tag: str, root: Path = ROOT) -> list[str]:
    """Return what keeps the commit in `root` from being released under a tag, each with what to do."""
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    found = []
    if tag != f"v{version}":
        found.append(
            f"the tag is {tag} and the version in pyproject.toml {version}: tag v{version}, or change the version"
        )
    headings = re.findall(r"^## (\S+) \((.+)\)$", (root / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    if not headings or headings[0][0] != version:
        newest = headings[0][0] if headings else "none"
        found.append(f"the newest heading of CHANGELOG.md is {newest}: write '## {version} (YYYY-MM-DD)' above it")
    elif not re.fullmatch(r"\d{4}-\d\d-\d\d", headings[0][1]):
        found.append(f"CHANGELOG.md says '{headings[0][1]}' of {version}: write the date of the release, YYYY-MM-DD")
    for earlier, _ in headings[1:]:
        if not (root / STORES / f"store_{earlier}.tar.gz").exists():
            found.append(f"there is no {STORES}/store_{earlier}.tar.gz: pack a root of {earlier} (CONTRIBUTING.md)")
    return found


def main() -> None:
    """Say what is wrong, with exit code 1, or that all is well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tag", help="such as v0.2.0")
    found = problems(parser.parse_args().tag)
    print("\n".join(found) or "fit to be released")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
