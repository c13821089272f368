"""The pair of ranks that other tests run in: both join, failures are told, and it recovers."""

import os
import time

import pytest
import torch

from sana.config.training.train import TrainConfig
from sana.training.parallel.parallel import Parallel
from tests.rank_pair import RankError, RankPair


def _sum(precision: str) -> tuple[int, int, float]:
    config = TrainConfig(
        max_steps=1, global_batch_size=2, mixed_precision=precision, resources={"device": "cpu", "num_processes": 2}
    )
    parallel = Parallel.open(config)
    return os.getpid(), parallel.rank, parallel.sum(torch.tensor(1.0 + parallel.rank)).item()


def _fail_on_rank_1(how: str) -> None:
    if os.environ["RANK"] == "0":
        time.sleep(60)
    if how == "exit":
        os._exit(7)
    raise ValueError("of rank 1")


def test_cases_share_a_pair_and_each_opens_its_own_accelerator(pair: RankPair) -> None:
    first, second = pair.run(_sum, "fp32"), pair.run(_sum, "bf16")
    assert [(rank, total) for _, rank, total in first] == [(0, 3.0), (1, 3.0)]
    assert first == second


def test_a_failure_on_either_rank_is_told_and_the_next_case_has_another_pair(pair: RankPair) -> None:
    before = pair.run(_sum, "fp32")
    with pytest.raises(RankError, match="(?s)rank 1 failed.*ValueError: of rank 1") as told:
        pair.run(_fail_on_rank_1, "raise")
    assert isinstance(told.value.__cause__, ValueError)
    with pytest.raises(RankError, match="rank 1 ended with 7"):
        pair.run(_fail_on_rank_1, "exit")
    with pytest.raises(RankError, match=r"ranks \[0, 1\] took over 0.5 s"):
        pair.run(time.sleep, 5, time_limit_s=0.5)
    after = pair.run(_sum, "fp32")
    assert {pid for pid, _, _ in before}.isdisjoint({pid for pid, _, _ in after})
