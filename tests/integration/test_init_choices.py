"""What `sana init` chooses: for few clips, a tiny model, GPUs, a model that does not fit."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from flows.wizard import interview, look, questions
from flows.wizard.asking import Proposals
from flows.wizard.flags import Flags
from flows.wizard.interview import Interview
from flows.wizard.look import Hardware
from sana.costs.calibration import Trial
from sana.costs.machine import Machine
from sana.data.sources.sample import SampleLimits
from sana.model.model_configs import ModelSizes
from sana.pipeline.starting.fitting import PUBLISHED
from tests.video_files import make_video
from tests.wizard_runs import ENTER, QUESTIONS, asked, init, put, written

pytestmark = [pytest.mark.timeout(120), pytest.mark.usefixtures("in_empty_folder")]
GIB = 2**30


def test_a_rejected_clip_s_caption_is_no_prompt(tmp_path: Path, videos: list[Path]) -> None:
    folder = put(tmp_path / "clips", videos, ("b", "c"))
    (folder / "a.mp4").write_text("no video")
    (folder / "a.txt").write_text("of a file that is no video")
    assert init(str(folder), "-s", "download.datasets.clips.max_rejected_fraction=0.5").exit_code == 0
    assert written()["clips.yaml"].sample.prompts == {"first": "a test picture, 1"}


def test_of_few_clips_most_are_to_train(tmp_path: Path, videos: list[Path]) -> None:
    names = tuple(f"clip{number:02}" for number in range(12))  # of which the hash holds out 6 at 20%
    assert init(str(put(tmp_path / "clips", videos * 4, names))).exit_code == 0
    assert 0 < written()["clips.yaml"].bucket.eval_fraction < 0.2


def test_a_machine_of_four_gpus(tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    card = Machine("NVIDIA H100", 80 * GIB, "2.9", is_gpu=True)
    monkeypatch.setattr(interview, "look_at_hardware", lambda: Hardware(("NVIDIA H100",) * 4, card, 512 * GIB))
    assert init(str(put(tmp_path / "clips", videos))).exit_code == 0
    config = written()["clips.yaml"]
    assert config.train.method.name == "full" and config.train.resources.num_processes == 4
    assert config.train.global_batch_size == 4 and config.encode_latents.resources.num_workers == 4
    assert config.train.validation.every == config.train.max_steps // 4
    assert "this machine: 4 x NVIDIA H100, 80.0 GiB, 512.0 GiB host memory" in Path("clips.yaml").read_text()


@pytest.mark.parametrize(
    ("card", "names_tiny"),
    [
        (Machine("a CPU", 2 * GIB, "2.9", is_gpu=False), True),
        (Machine("NVIDIA T4", 2 * GIB, "2.9", is_gpu=True), False),
        (Machine("NVIDIA H100", 80 * GIB, "2.9", is_gpu=True), None),
    ],
    ids=["no GPU", "a small GPU", "it fits"],
)
def test_a_model_that_does_not_fit_is_said_with_what_to_do(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch, card: Machine, names_tiny: bool | None
) -> None:
    hardware = Hardware((card.device,) if card.is_gpu else (), card, card.memory_bytes)
    monkeypatch.setattr(interview, "look_at_hardware", lambda: hardware)
    said: list[str] = []
    asked(ENTER * QUESTIONS, put(tmp_path / "clips", videos), said.append)
    notes = [line for line in said if line.startswith("note: ") and "does not fit" in line]
    assert len(notes) == (0 if names_tiny is None else 1)
    assert ["sana make-tiny-model tiny" in note for note in notes] == ([] if names_tiny is None else [names_tiny])
    before = [line for line in said if line.startswith("no GPU here")]
    assert len(before) == (0 if card.is_gpu else 1)


@pytest.mark.parametrize(("settings", "is_said"), [((), True), (tuple(questions.SMALL.split()), False)])
def test_without_a_gpu_large_samples_are_said_to_take_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: tuple[str, ...], is_said: bool
) -> None:
    card = Machine("a CPU", 512 * GIB, "2.9", is_gpu=False)
    monkeypatch.setattr(interview, "look_at_hardware", lambda: Hardware((), card, 512 * GIB))
    put(tmp_path / "clips", [make_video(tmp_path / f"{n}.mp4", num_frames=n, width=416, height=240) for n in (62, 64)])
    shown = init(str(tmp_path / "clips"), *settings)
    assert shown.exit_code == 0 and ("for a trial of minutes" in shown.output) == is_said
    assert list(written()) == ["clips.yaml"]


def test_a_gpu_without_memory_of_its_own_has_the_host_s(
    tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Machine("NVIDIA GB10", 0, "2.9", is_gpu=True)
    monkeypatch.setattr(interview, "look_at_hardware", lambda: Hardware(("NVIDIA GB10",), card, 119 * GIB))
    assert init(str(put(tmp_path / "clips", videos))).exit_code == 0
    assert written()["clips.yaml"].train.method.name == "full"
    assert "NVIDIA GB10, 119.0 GiB, 119.0 GiB host memory" in Path("clips.yaml").read_text()


def test_what_was_measured_is_used(tmp_path: Path, videos: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = Trial(20, 1, 0.4, fits=True, samples_per_step=1)
    monkeypatch.setattr(look, "find_calibration", lambda config, configs, bucket: SimpleNamespace(chosen=chosen))
    monkeypatch.setattr(look, "read_model_sizes", lambda model, work_dir: ModelSizes({}, PUBLISHED, None, None))
    shown = init(str(put(tmp_path / "clips", videos)))
    assert shown.exit_code == 0, shown.output
    resources = written()["clips.yaml"].train.resources
    assert (resources.activation_memory, resources.micro_batch_size) == (0.4, chosen.micro_batch_size)
    assert "# measured by sana calibrate" in Path("clips.yaml").read_text()


@pytest.mark.parametrize(("num", "fraction"), [(3, 0.2), (12, 0.2), (40, 0.1), (100, 0.05)])
def test_of_few_clips_more_is_held_out(tmp_path: Path, num: int, fraction: float) -> None:
    names = tuple(f"{number:03}" for number in range(num))
    made = [
        make_video(tmp_path / f"{name}.mp4", num_frames=5, width=64, height=48, first_pts=int(name))
        for name in names[:3]
    ]
    put(tmp_path / "clips", made, names[:3])
    for name in names[3:]:  # others of the same length; a free box at the end makes their content another
        data = made[0].read_bytes() + len(name.encode() * 3 + bytes(8)).to_bytes(4, "big") + b"free" + name.encode() * 3
        (tmp_path / "clips" / f"{name}.mp4").write_bytes(data)
        (tmp_path / "clips" / f"{name}.txt").write_text(name)
    Interview(Flags(str(tmp_path / "clips")), Proposals(lambda line: None), SampleLimits(clips=3)).run()
    assert written()["clips.yaml"].bucket.eval_fraction == fraction


def test_a_tiny_model_gets_a_trial_of_minutes_and_what_is_given_stays(
    tmp_path: Path, videos: list[Path], tiny_model: Path
) -> None:
    clips, tiny = str(put(tmp_path / "clips", videos)), str(tiny_model)
    assert init(clips, "--model", tiny, "-o", "a.yaml").exit_code == 0
    assert init(clips, "--model", tiny, "-o", "b.yaml", "-s", "train.max_steps=7",
                "-s", "bucket.buckets=[9x96x160]").exit_code == 0  # fmt: skip
    assert init(clips, "-o", "c.yaml").exit_code == 0
    configs = written()
    of_tiny = configs["a.yaml"]
    assert of_tiny.bucket.table == "resolution" and of_tiny.bucket.num_frames == 17 and of_tiny.bucket.resolution == 96
    assert (of_tiny.train.max_steps, of_tiny.train.global_batch_size, of_tiny.train.base_check) == (120, 2, "off")
    assert "small, for a trial with a tiny model" in Path("a.yaml").read_text()
    assert configs["b.yaml"].train.max_steps == 7 and str(configs["b.yaml"].bucket.buckets[0]) == "9x96x160"
    assert configs["c.yaml"].train.base_check == "warn" and configs["c.yaml"].bucket.resolution != 96
