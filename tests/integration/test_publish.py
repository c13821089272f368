"""What was trained is published whole, once, and privately; and whatever refuses or dies, training is as it was."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from flows.display.show import stage_lines
from sana.artifact import Artifact, find
from sana.context import Context
from sana.data.video.video import write_mp4
from sana.delivery import hub_upload
from sana.errors import ConfigError, SanaError
from sana.facts import PublishFacts, TrainFacts
from sana.maintenance.copy import copy_root
from sana.maintenance.verify import verify
from sana.pipeline import graph
from sana.pipeline.plan import plan
from sana.runtime.launcher import WorkerError
from sana.stages import publish as stage
from sana.store import LocalStore, open_store
from sana.store_errors import StoreError
from sana.training.checkpoints.checkpoint_io import load_weights
from tasks.tracking.values import artifact_tags
from tests.hub_uploads import UploadHub, wrong_metadata
from tests.pipeline_runs import Outcome, Place, inline_workers, new_place, run_stages
from tests.s3_server import WeedServer

pytestmark = pytest.mark.timeout(200)
REPO = "labs/bunny-video"
HUB = f"publish.to=hf://{REPO}"
SETTINGS = ("train.max_steps=4", "sample.bucket=5x32x32")


@dataclass
class Trained:
    """A run up to sample, to be published."""

    place: Place
    outcome: Outcome

    def context(self, *overrides: str) -> Context:
        return self.place.context(*SETTINGS, *overrides)

    def inputs(self, context: Context) -> dict[str, Artifact]:
        return graph.inputs_of(context.config, "publish", self.outcome.artifacts)

    def publish(self, *overrides: str) -> Artifact:
        context = self.context(*overrides)
        inputs = self.inputs(context)
        with inline_workers():
            return stage.run(context, inputs, stage.recipe(context, inputs))

    @property
    def exported(self) -> dict[str, bytes]:
        files = self.outcome["train"].files.items()
        store = LocalStore(self.place.root)
        return {name.removeprefix("model/"): store.read(info.key) for name, info in files if name.startswith("model/")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Trained:
    place = new_place(tmp_path_factory.mktemp("publish"), tiny_model)
    with inline_workers():
        return Trained(place, run_stages(place.context(*SETTINGS)))


@pytest.fixture
def trained(base: Trained, tmp_path: Path) -> Iterator[Trained]:
    """A root of its own; what was trained is the same after whatever a test does."""
    shutil.copytree(base.place.root, tmp_path / "root")
    place = Place(base.place.folder, base.place.model, str(tmp_path / "root"))
    mine = Trained(place, base.outcome)
    before = mine.exported
    yield mine
    assert mine.exported == before
    assert not verify(LocalStore(place.root)).problems


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    """A hub that takes uploads, and its token."""
    import huggingface_hub

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)  # it is found out that this hub has none
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(hub_upload, "SMALL_BYTES", 10_000)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # its waits between tries
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    with UploadHub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        monkeypatch.setenv("HF_TOKEN", server.token or "")
        yield server
        server.released.set()
        huggingface_hub.close_session()
    huggingface_hub.set_client_factory(huggingface_hub.utils._http.default_client_factory)


def test_a_model_goes_to_a_private_repository_with_its_card_and_a_second_run_is_cached(
    trained: Trained, hub: UploadHub
) -> None:
    overrides = (HUB, "publish.license=apache-2.0", "publish.licenses={demo: CC BY 3.0}", "publish.tags=[rabbit]")
    made = trained.publish(*overrides)
    assert hub.private == {REPO: True}
    files = hub.files(REPO)
    assert {name: files[name] for name in trained.exported} == trained.exported
    rest = {"README.md", "training_config.yaml", "passport.json", "eval_loss.png"}
    rest |= {"samples/bunny.mp4", "samples/contact_sheet.png"}
    assert set(files) == {*trained.exported, *rest, ".gitattributes"}
    assert hub.messages == [f"Step 4 of training (publish/{made.fingerprint})"]
    facts = PublishFacts.of(made)
    assert facts.places == {"main": hub.find(f"models/{REPO}", "main")[0]} and not facts.dry_run  # type: ignore[index]
    assert facts.num_files == len(files) - 1
    page = f"{hub.endpoint}/{REPO}"
    store = LocalStore(trained.place.root)
    assert artifact_tags(made, store)["sana.link.published"] == page
    assert f"published: {page} ({facts.num_files} files" in stage_lines("publish", made, store, "")[0]
    assert_card(files["README.md"].decode(), trained)
    told = b"".join(data for name, data in files.items() if name in ("README.md", "training_config.yaml"))
    assert b"sEcReT" not in told and str(trained.place.folder).encode() not in told and b"/tmp" not in told

    context, before = trained.context(*overrides), len(hub.requests)
    assert [(one.name, one.state, one.detail) for one in plan(context)][-1] == ("publish", "cached", "")
    with inline_workers():
        assert run_stages(context).ran == []
    assert len(hub.requests) == before, "nobody asks the hub"
    puts = hub.puts
    inputs = trained.inputs(context)
    with inline_workers():  # forced: what is there is not sent, and no commit is made
        again = stage.run(replace(context, salt="again"), inputs, stage.recipe(context, inputs))
    assert hub.puts == puts and len(hub.messages) == 1 and PublishFacts.of(again).places == facts.places


def assert_card(text: str, trained: Trained) -> None:
    assert wrong_metadata(text) == []
    data = yaml.safe_load(text.split("---")[1])
    assert data["pipeline_tag"] == "text-to-video" and data["library_name"] == "diffusers"
    assert data["license"] == "apache-2.0" and "rabbit" in data["tags"] and "lora" not in data["tags"]
    assert data["widget"][0]["output"]["url"] == "samples/bunny.mp4"
    evaluated = json.loads(LocalStore(trained.place.root).read(trained.outcome["evaluate"].files["report.json"].key))
    for name, loss in evaluated["weights"].items():
        assert re.search(rf"\| {name} \| {loss['mean']:.4f} ± {loss['stderr']:.4f} \|", text), name
    assert "| demo | not public | CC BY 3.0 |" in text and "![eval loss over noise level](eval_loss.png)" in text
    assert f"SanaVideoPipeline.from_pretrained('{REPO}', torch_dtype=dtype)" in text
    assert "| steps | 4 |" in text and "| global batch size | 4 |" in text


def test_kept_checkpoints_are_branches_with_the_weights_of_their_step(trained: Trained, hub: UploadHub) -> None:
    from safetensors.torch import load

    made = trained.publish(HUB, "publish.what=checkpoints", "publish.private=false")
    assert hub.private == {REPO: False} and list(PublishFacts.of(made).places) == ["main", "step-00000002"]
    main, branch = hub.files(REPO), hub.files(REPO, "step-00000002")
    weights = "transformer/diffusion_pytorch_model.safetensors"
    assert set(trained.exported) <= set(branch) and branch[weights] != main[weights] == trained.exported[weights]
    facts = TrainFacts.of(trained.outcome["train"])
    ema = load_weights(LocalStore(trained.place.root), facts.trajectory, 2, which="ema")
    stored = load(branch[weights])
    assert set(stored) == set(ema) and all(stored[name].equal(ema[name]) for name in ema)
    assert branch["transformer/config.json"] == main["transformer/config.json"]
    card = branch["README.md"].decode()
    assert "revision='step-00000002'" in card and "## Eval loss" not in card and wrong_metadata(card) == []
    assert "branches `step-00000002`" in main["README.md"].decode()
    assert hub.messages[1].startswith("Step 2 of training")


def test_a_dry_run_asks_nobody_and_lists_exactly_what_is_uploaded(
    trained: Trained, hub: UploadHub, tmp_path: Path
) -> None:
    (tmp_path / "notes.md").write_text("# notes")
    more = (HUB, f"publish.extra_files={{docs/notes.md: {tmp_path}/notes.md}}")
    dry = trained.publish(*more, "publish.dry_run=true")
    assert hub.requests == [] and PublishFacts.of(dry).places == {}
    store = LocalStore(trained.place.root)
    listing = json.loads(store.read(dry.files["upload.json"].key))
    assert listing["dry_run"] and listing["private"] and listing["to"] == f"hf://{REPO}"
    (told,) = listing["publications"]
    assert "would be published to hf://labs/bunny-video" in stage_lines("publish", dry, store, "")[0]
    real = trained.publish(*more)
    assert real.fingerprint != dry.fingerprint
    files = {name: data for name, data in hub.files(REPO).items() if name != ".gitattributes"}
    assert {name: of["num_bytes"] for name, of in told["files"].items()} == {n: len(data) for n, data in files.items()}
    assert told["num_bytes"] == PublishFacts.of(real).num_bytes == sum(map(len, files.values()))
    assert store.read(dry.files["README.md"].key) == files["README.md"] and files["docs/notes.md"] == b"# notes"


def test_an_extra_file_replaces_none_of_the_model(trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(ConfigError, match="publish.extra_files: vae/config.json is a file of the model"):
        trained.publish(f"publish={{to: {tmp_path}/out, extra_files: {{vae/config.json: {tmp_path}/x.json}}}}")
    with pytest.raises(ConfigError, match="notes.md: /nowhere/x cannot be read: No such file"):
        trained.publish(f"publish={{to: {tmp_path}/out, extra_files: {{notes.md: /nowhere/x}}}}")


def refuses(verb: str, status: int, message: str = "no") -> Callable[[UploadHub, pytest.MonkeyPatch], None]:
    return lambda hub, patch: hub.refuse.update({verb: [(status, message)]})


def hangs(verb: str) -> Callable[[UploadHub, pytest.MonkeyPatch], None]:
    def hang(hub: UploadHub, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(hub_upload, "CALL_TIMEOUT_S", 0.1)
        hub.hangs.add(verb)

    return hang


def dies(hub: UploadHub, patch: pytest.MonkeyPatch) -> None:
    hub.dies_at_put = 2


def no_token(hub: UploadHub, patch: pytest.MonkeyPatch) -> None:
    patch.delenv("HF_TOKEN")


def is_public(hub: UploadHub, patch: pytest.MonkeyPatch) -> None:
    hub.private[REPO] = False
    hub.publish(f"models/{REPO}", {"README.md": b"# mine"})


Fault = Callable[[UploadHub, pytest.MonkeyPatch], None]
FAULTS: dict[str, tuple[Fault, type[Exception], str]] = {
    # what fails; StoreError where trying again may help; what is said
    "no token": (no_token, SanaError, "needs a token with the right to write: set HF_TOKEN"),
    "wrong token": (refuses("create", 401), SanaError, r"could not make the repository \(HTTP 401\): HF_TOKEN is not"),
    "no right": (refuses("create", 403, "You don't have the rights"), SanaError, "HTTP 403, .*rights.* may not write"),
    "read token": (refuses("commit", 403, "read only"), SanaError, "could not commit to main .HTTP 403"),
    "gone": (refuses("preupload", 404), SanaError, "HTTP 404.: there is no such repository"),
    "conflict": (refuses("commit", 409, "A commit has happened"), StoreError, "somebody else changed the repository"),
    "rate limit": (refuses("batch", 429), StoreError, "HTTP 429, .*try again later"),
    "in trouble": (refuses("put", 500), StoreError, "could not upload .* .HTTP 500, .*try again later"),
    "quota": (refuses("batch", 403, "Private repository storage limit reached"), SanaError, "storage quota or size"),
    "too large": (refuses("put", 413), SanaError, "storage quota or size limit is reached"),
    "bad card": (refuses("validate", 400), SanaError, "could not have the card accepted"),
    "hangs at once": (hangs("create"), StoreError, "could not make the repository .*timed out"),
    "hangs": (hangs("put"), StoreError, "could not upload .*timed out.*were uploaded before"),
    "goes away": (dies, StoreError, r"could not upload .*out of reach.*3 of 16 files \(.*\) were uploaded before"),
    "public": (is_public, SanaError, "is public, and publish.private is true"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_hub_that_refuses_is_one_clear_error_and_the_next_run_completes_it(
    fault: str, trained: Trained, hub: UploadHub
) -> None:
    fails, kind, says = FAULTS[fault]
    context = trained.context(HUB)
    with pytest.MonkeyPatch.context() as patch:
        fails(hub, patch)
        with pytest.raises(SanaError) as error:
            trained.publish(HUB)
    said = str(error.value)
    assert isinstance(error.value, kind) and isinstance(error.value, StoreError) == (kind is StoreError)
    assert re.search(says, said, re.IGNORECASE), said
    assert "was trained is in the store as before" in said and "uploaded" in said
    assert "sEcReT" not in said and "\n" not in said
    inputs = trained.inputs(context)
    assert find(context.store, stage.recipe(context, inputs)) is None
    assert hub.messages == []
    sent = hub.puts
    hub.refuse, hub.dies_at_put = {}, 0
    hub.hangs.clear()
    hub.released.set()
    if fault == "public":
        hub.private[REPO] = True
    trained.publish(HUB)
    files = hub.files(REPO)
    assert {name: files[name] for name in trained.exported} == trained.exported
    assert hub.puts == len(hub.blobs) and (fault != "goes away" or sent == 1), "no file is sent twice"


def test_an_upload_that_hangs_is_ended_and_resumes(trained: Trained, hub: UploadHub) -> None:
    """The real process: the hub takes one file and then never answers again."""
    context = trained.context(HUB, "publish.resources.stall_timeout_s=10")
    inputs = trained.inputs(context)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_HOME", str(trained.place.folder / "hf"))
        hub.hangs_after = 1
        with pytest.raises(
            WorkerError, match=r"no progress for 10 s, ended it.*\nfiles uploaded before: [1-9]"
        ) as error:
            stage.run(context, inputs, stage.recipe(context, inputs))
    assert "sEcReT" not in str(error.value) and hub.puts == 1
    hub.hangs_after = 0
    hub.released.set()
    trained.publish(HUB)
    assert hub.puts == len(hub.blobs) > 1 and len(hub.messages) == 1


@pytest.mark.parametrize("kind", ["folder", "bucket"])
def test_a_folder_or_bucket_gets_a_folder_for_each_publication(
    kind: str, trained: Trained, tmp_path: Path, s3: WeedServer
) -> None:
    to = str(tmp_path / "out") if kind == "folder" else f"s3://{s3.bucket}/publish-{uuid4().hex}"
    made = trained.publish(f"publish.to={to}", "publish.what=checkpoints")
    target = open_store(to)
    fp = made.fingerprint[:8]
    names = [f"step-00000002-{fp}", f"step-00000004-{fp}"]
    assert target.list_dirs("") == names and PublishFacts.of(made).places[names[1]] == target.uri(names[1])
    assert PublishFacts.of(made).links == {"published": target.uri(names[1])}
    found = {key.removeprefix(f"{names[1]}/"): target.read(key) for key, _ in target.list(names[1])}
    assert {name: found[name] for name in trained.exported} == trained.exported
    target.delete(f"{names[1]}/model_index.json")  # as if it had been killed
    trained.publish(f"publish.to={to}", "publish.what=checkpoints")
    assert target.exists(f"{names[1]}/model_index.json")
    if kind == "folder":
        target.delete(f"{names[1]}/model_index.json")
        target.put_if_absent(f"{names[1]}/model_index.json", b"of another")
        with pytest.raises(SanaError, match="is not what this stage puts there"):
            trained.publish(f"publish.to={to}", "publish.what=checkpoints")


def test_a_root_in_a_bucket_is_published_file_by_file(base: Trained, hub: UploadHub, s3: WeedServer) -> None:
    remote = f"s3://{s3.bucket}/root-{uuid4().hex}"
    copy_root(LocalStore(base.place.root), open_store(remote), stages=("train", "evaluate", "sample"))
    mine = Trained(Place(base.place.folder, base.place.model, remote), base.outcome)
    mine.publish(HUB, "publish.what=checkpoints")
    files = hub.files(REPO)
    assert {name: files[name] for name in base.exported} == base.exported
    assert set(base.exported) <= set(hub.files(REPO, "step-00000002"))


def test_a_damaged_export_is_not_published(base: Trained, tmp_path: Path, hub: UploadHub) -> None:
    shutil.copytree(base.place.root, tmp_path / "root")
    mine = Trained(Place(base.place.folder, base.place.model, str(tmp_path / "root")), base.outcome)
    info = base.outcome["train"].files["model/transformer/diffusion_pytorch_model.safetensors"]
    path = tmp_path / "root" / info.key
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(SanaError, match="is damaged; sana verify CONFIG --deep says how"):
        mine.publish(HUB)
    assert hub.messages == []


def write_video(frames: list[Any], path: str, *, fps: float) -> None:
    write_mp4(Path(path), np.stack([np.asarray(frame) for frame in frames]), fps=fps)


def run_snippet(card: str, replaced: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    for name, path in replaced.items():
        assert repr(name) in code
        code = code.replace(repr(name), repr(path))
    monkeypatch.chdir(folder)
    monkeypatch.setattr("diffusers.utils.export_to_video", write_video)  # it needs imageio, which nothing here does
    scope: dict[str, Any] = {}
    exec(code, scope)  # noqa: S102 - what the card tells people to run
    assert len(scope["video"]) == 5 and (folder / "video.mp4").stat().st_size > 0


def test_the_snippet_of_a_card_makes_a_video(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = trained.publish(f"publish.to={tmp_path}/out")
    folder = PublishFacts.of(made).links["published"]
    run_snippet((Path(folder) / "README.md").read_text(), {"FOLDER": folder}, tmp_path, monkeypatch)


def test_an_adapter_is_published_as_one_and_its_snippet_makes_a_video(
    base: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Place(base.place.folder, base.place.model, base.place.root)
    lora = ("train.method={name: lora, rank: 2}", "train.max_steps=2", f"publish.to={tmp_path}/out")
    context = place.context(*SETTINGS, *lora, "publish.base_model=labs/base", "publish.license=mit")
    with inline_workers():
        made = run_stages(context)["publish"]
    folder = Path(PublishFacts.of(made).links["published"])
    card = (folder / "README.md").read_text()
    data = yaml.safe_load(card.split("---")[1])
    assert wrong_metadata(card) == [] and "lora" in data["tags"] and data["base_model_relation"] == "adapter"
    assert data["base_model"] == "labs/base" and "LoRA of rank 2" in card and not (folder / "vae").exists()
    run_snippet(card, {"FOLDER": str(folder), "labs/base": str(place.model)}, tmp_path, monkeypatch)
