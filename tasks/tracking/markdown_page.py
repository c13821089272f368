"""The description at the head of a pipeline's run: what came of it in words, its numbers, attempts and links."""

import re
from collections.abc import Mapping
from urllib.parse import quote

from sana.facts import EvaluateFacts
from sana.report.training.verdict import compared
from tasks.prefect_pages import markdown
from tasks.prefect_pages.markdown import joined, link, table

_MAX_SETTINGS = 60  # shown: a config may name hundreds of data sets
_NAMES = {"live": "the weights as trained", "ema": "their average (EMA)"}


def text(value: object) -> str:
    """Return a value as text; MLflow shows the backslash before a colon and others, so entities stand for them."""
    return re.sub(r"\\(.)", lambda found: f"&#{ord(found[1])};", markdown.text(value))


def run_link(label: str, experiment_id: str, run_id: str, page: str = "") -> str:
    """Return a link within MLflow, whichever address it is served at."""
    path = f"#/experiments/{quote(experiment_id, safe='')}/runs/{quote(run_id, safe='')}"
    path += f"/artifacts/{quote(page, safe='')}" if page else ""
    return f"[{text(label)}]({path}?workflowType=machine_learning)"


def verdict(losses: EvaluateFacts) -> str:
    """Say in a sentence for each set of weights whether training helped on what was held out, and how sure that is."""
    said = []
    for name, paired in losses.paired.items():
        before, after = losses.weights["initial"].mean, losses.weights[name].mean
        stderr = "" if paired.stderr is None else f" +- {paired.stderr:.2g}"
        said.append(
            f"- {_NAMES.get(name, name)}: eval loss {before:.4f} before, **{after:.4f}** at step {losses.step}: "
            f"{compared(paired)[1]} ({paired.difference:+.4f}{stderr}, {-100 * paired.relative_drop:+.1f} %, "
            f"{paired.num_samples} held-out samples)"
        )
    return "\n".join(said)


def page(
    *,
    losses: EvaluateFacts | None,
    numbers: Mapping[str, float],
    stages: Mapping[str, str],
    attempts: Mapping[str, str],
    pages: Mapping[str, str],
    settings: Mapping[str, str],
    before: str,
    prefect_url: str,
) -> str:
    """Return the description.

    `stages` and `pages`: links by name; `attempts`: how each ended, by number; `settings`: what the config names;
    `before`: link to the run of these settings on the data as it was.
    """
    links = [*pages.values(), *([link("Prefect", prefect_url)] if prefect_url else [])]
    return joined(
        [
            "#### Result\n\n" + (verdict(losses) if losses else "not evaluated yet"),
            table(["", "number"], [[text(name), f"{value:g}"] for name, value in numbers.items()], numbers=["number"])
            if numbers
            else "",
            "Pages: " + ", ".join(links) if links else "",
            f"The run before: {before}" if before else "",
            "#### Stages\n\n" + ", ".join(stages.values()) if stages else "",
            "#### Attempts\n\n" + table(["", "how it ended"], [[n, text(said)] for n, said in attempts.items()])
            if attempts
            else "",
            _chosen(settings),
        ]
    )


def _chosen(settings: Mapping[str, str]) -> str:
    """Return the table of what was chosen: among a hundred parameters nobody sees which ones a config names."""
    if not settings:
        return ""
    shown = [[text(name), text(value)] for name, value in list(settings.items())[:_MAX_SETTINGS]]
    left = len(settings) - len(shown)
    more = f"\n\n{left} more are in config/resolved.yaml" if left else ""
    return "#### Settings of the config\n\n" + table(["setting", "value"], shown) + more
