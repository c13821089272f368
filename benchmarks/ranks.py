"""Do two ranks train as one does? Losses of the demo's steps on 1 and on 2 processes, and the eval loss of the result.

    python -m benchmarks.ranks

Needs a finished `make demo`: its data stages are copied, so only training and evaluation run, in folders of their own.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from sana.metrics import STEP, TRAIN_LOSS, parse_rows
from sana.runtime.results import EvalReport

DATA = ("download", "probe", "bucket", "encode_captions", "encode_latents")
RANKS = {1: 4, 2: 2}  # number of ranks: micro batch size, so that a step is one pass on each


def train(folder: Path, num_processes: int) -> tuple[list[dict[str, float]], float]:
    """Train and evaluate the demo on so many ranks; returns the metrics rows and the eval loss of the live weights."""
    root = folder / f"ranks-{num_processes}"
    for stage in DATA:
        shutil.copytree(Path(".sana/store", stage), root / stage)
    resources = f"train.resources.num_processes={num_processes}"
    micro = f"train.resources.micro_batch_size={RANKS[num_processes]}"
    command = [sys.executable, "-m", "flows.cli.main", "run", "configs/demo.yaml", "--until", "evaluate"]
    sets = [f"root={root}", f"work_dir={folder / f'work-{num_processes}'}", resources, micro]
    subprocess.run([*command, *(part for text in sets for part in ("-s", text))], check=True, capture_output=True)
    rows = parse_rows(b"".join(path.read_bytes() for path in sorted(root.glob("train/*/metrics/*.jsonl"))))
    report = EvalReport.load(next(root.glob(f"evaluate/*/*/{EvalReport.FILE}")))
    return [row for row in rows if TRAIN_LOSS in row], report.weights["live"].mean


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        one, loss_one = train(Path(name), 1)
        two, loss_two = train(Path(name), 2)
    assert [row[STEP] for row in one] == [row[STEP] for row in two]
    worst = max(zip(one, two, strict=True), key=lambda pair: abs(pair[0][TRAIN_LOSS] / pair[1][TRAIN_LOSS] - 1))
    relative = abs(worst[0][TRAIN_LOSS] / worst[1][TRAIN_LOSS] - 1)
    print("| what | value |\n|---|---|")
    print(f"| steps compared | {len(one)} |")
    print(f"| worst relative difference of a loss | {relative:.2e} at step {worst[0][STEP]} |")
    print(f"| eval loss on 1 rank, live | {loss_one:.8f} |")
    print(f"| eval loss on 2 ranks, live | {loss_two:.8f} |")


if __name__ == "__main__":
    main()
