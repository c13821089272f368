"""The sizes of a model are read from its config files alone, of a folder or of the hub."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sana.config.encode import ModelConfig
from sana.errors import SanaError
from sana.model.model_configs import ModelSizes, read_model_sizes
from tests.hub_server import HubServer
from tests.hub_sources import go_online
from tests.published import TEXT_ENCODER, TRANSFORMER, VAE

FILES = {
    f"{name}/config.json": json.dumps(config).encode()
    for name, config in (("transformer", TRANSFORMER), ("vae", VAE), ("text_encoder", TEXT_ENCODER))
}
PARAMETERS = (2_056_862_144, 126_892_531, 2_614_341_888)
Read = Callable[[dict[str, bytes]], ModelSizes]


@pytest.fixture(params=["folder", "hub"])
def read(request: pytest.FixtureRequest, tmp_path: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Read:
    def of_folder(files: dict[str, bytes]) -> ModelSizes:
        for name, data in files.items():
            path = tmp_path / "model" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        return read_model_sizes(ModelConfig(path=str(tmp_path / "model")), work_dir=tmp_path / "work")

    def of_hub(files: dict[str, bytes]) -> ModelSizes:
        go_online(monkeypatch)
        hub.publish("models/labs/sizes", files)
        return read_model_sizes(ModelConfig(path="labs/sizes"), work_dir=tmp_path / "work")

    return of_folder if request.param == "folder" else of_hub


def test_config_files_are_enough(read: Read) -> None:
    sizes = read(FILES)
    found = [part.num_parameters for part in (sizes.transformer, sizes.vae, sizes.text_encoder)]
    assert tuple(found) == PARAMETERS


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({name: data for name, data in FILES.items() if "vae" not in name}, "lacks .*vae/config.json"),
        (FILES | {"vae/config.json": b"{"}, "vae/config.json is no JSON"),
        (FILES | {"transformer/config.json": b"[]"}, "transformer/config.json is no JSON object"),
        (FILES | {"transformer/config.json": b"{}"}, "transformer/config.json: .*num_layers"),
    ],
)
def test_what_is_wrong_with_a_config_file_is_said(read: Read, files: dict[str, bytes], said: str) -> None:
    with pytest.raises(SanaError, match=said):
        read(files)
