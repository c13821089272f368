"""Where ranks meet: torchrun's variables, then Slurm's; and what is said where neither is complete."""

import pytest

from sana.errors import SanaError
from sana.runtime.rendezvous import enter, first_node, rendezvous

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "8", "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500"}
SLURM = {
    "SLURM_PROCID": "9", "SLURM_NTASKS": "12", "SLURM_LOCALID": "1", "SLURM_NODEID": "1", "SLURM_JOB_ID": "4321",
    "SLURM_STEP_NODELIST": "gpu[07-08,12]", "SLURM_STEP_TASKS_PER_NODE": "8,4", "SLURM_STEP_ID": "2",
}  # fmt: skip
DERIVED = {
    "RANK": "9", "LOCAL_RANK": "1", "WORLD_SIZE": "12", "LOCAL_WORLD_SIZE": "4", "MASTER_ADDR": "gpu07",
    "MASTER_PORT": "20249",
}  # fmt: skip


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (TORCHRUN, {**TORCHRUN, "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}),
        ({**SLURM, **TORCHRUN, "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"},
         {**TORCHRUN, "LOCAL_RANK": "3", "LOCAL_WORLD_SIZE": "4"}),
        (SLURM, DERIVED),
        ({**SLURM, "MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "7777"},
         {**DERIVED, "MASTER_ADDR": "10.1.1.1", "MASTER_PORT": "7777"}),
        ({"RANK": "0", "WORLD_SIZE": "1"}, {}),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1"}, {}),
    ],
)  # fmt: skip
def test_the_variables_of_torch_are_found(environ: dict[str, str], expected: dict[str, str]) -> None:
    assert rendezvous(environ) == expected


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({}, "nothing says which.*torchrun.*srun"),
        ({"RANK": "0", "WORLD_SIZE": "2"}, "MASTER_ADDR, MASTER_PORT are not set"),
        ({"WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}, "RANK is not set"),
        ({**TORCHRUN, "RANK": "8"}, "RANK is 8 and WORLD_SIZE 8; ranks go from 0 to 7"),
        ({**TORCHRUN, "RANK": "-1"}, "RANK is '-1'; a whole number"),
        ({**TORCHRUN, "MASTER_PORT": "auto"}, "MASTER_PORT is 'auto'"),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "1", "SLURM_JOB_NODELIST": "n1"}, "WORLD_SIZE is not set"),
        ({**SLURM, "SLURM_STEP_NODELIST": ""}, "MASTER_ADDR is not set"),
    ],
)
def test_what_is_missing_is_named_with_the_remedy(environ: dict[str, str], says: str) -> None:
    with pytest.raises(SanaError, match=says):
        rendezvous(environ)


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("node1", "node1"),
        ("node1,node2", "node1"),
        ("gpu[07-09,12],cpu1", "gpu07"),
        ("a-b[3]-ib,c", "a-b3-ib"),
        ("", ""),
    ],
)
def test_the_first_node_of_a_slurm_list(nodes: str, first: str) -> None:
    assert first_node(nodes) == first


@pytest.mark.parametrize(("num_ranks", "left"), [("1", {"HOME"}), ("2", {"HOME", *TORCHRUN})])
def test_one_rank_that_torchrun_started_is_a_process_like_any_other(num_ranks: str, left: set[str]) -> None:
    environ = {"HOME": "/h", **TORCHRUN, "RANK": "0", "WORLD_SIZE": num_ranks}
    enter(rendezvous(environ), environ)  # accelerate would wrap the model for others, which offload does not go with
    assert set(environ) - {"LOCAL_RANK", "LOCAL_WORLD_SIZE"} == left
