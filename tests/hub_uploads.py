"""The test hub's other half: it takes uploads as the real one does, by its endpoints, and refuses them on demand."""

import base64
import hashlib
import json
import re
import threading
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

from tests.hub_server import HubServer, _Handler, entry, git_blob

LICENSES = {"apache-2.0", "mit", "cc-by-nc-4.0", "openrail", "other"}  # some of the hub's
TASKS = {"text-to-video", "image-to-video", "text-to-image"}
_POSTS = {
    "validate": re.compile(r"/api/validate-yaml()()"),
    "create": re.compile(r"/api/repos/create()()"),
    "preupload": re.compile(r"/api/models/([^/]+/[^/]+)/preupload/([^/]+)"),
    "batch": re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch()"),
    "verify": re.compile(r"/lfs-verify/([^/]+/[^/]+)()"),
    "commit": re.compile(r"/api/models/([^/]+/[^/]+)/commit/([^/]+)"),
    "branch": re.compile(r"/api/models/([^/]+/[^/]+)/branch/([^/]+)"),
}


class UploadHub(HubServer):
    """Takes commits. `token` may write; what is in `refuse` is answered by the verb's statuses in turn."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "hf_sEcReT"
        self.private: dict[str, bool] = {}  # "owner/name"
        self.blobs: dict[str, bytes] = {}  # LFS objects by sha256
        self.messages: list[str] = []  # of commits
        self.refuse: dict[str, list[tuple[int, str]]] = {}  # verb: (status, message), in turn; the last one stays
        self.hangs: set[str] = set()  # verbs that are never answered
        self.puts = 0  # LFS objects that were sent
        self.hangs_after = 0  # so many LFS objects; 0: never
        self.dies_at_put = 0  # from this one on the connection is closed in the middle
        self.released = threading.Event()

    def handler(self) -> type[_Handler]:
        return _Uploads

    def files(self, repo: str, revision: str = "main") -> dict[str, bytes]:
        found = self.find(f"models/{repo}", revision)
        return {} if found is None else found[1]

    def exists(self, repo: str) -> bool:
        return repo in self.private


class _Uploads(_Handler):
    server_hub: UploadHub

    def do_GET(self) -> None:
        hub, path = self.server_hub, urlsplit(self.path).path
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/main)?", path)
        if found and hub.exists(found[1]):
            if self._authorized():
                commit = hub.find(f"models/{found[1]}", "main")
                sha = commit[0] if commit else "0" * 40
                self._json({"id": found[1], "sha": sha, "private": hub.private[found[1]], "siblings": [], "tags": []})
            return
        super().do_GET()

    def do_POST(self) -> None:
        hub, path = self.server_hub, unquote(urlsplit(self.path).path)
        body = self._body()
        hub.requests.append(f"POST {path}")
        verb, match = next((v, m) for v, pattern in _POSTS.items() if (m := pattern.fullmatch(path)))
        if self._stopped(verb) or not self._authorized():
            return
        repo = match[1]
        if verb not in ("create", "validate") and not hub.exists(repo):
            self._refusal(404, "Repository not found", {"X-Error-Code": "RepoNotFound"})
            return
        getattr(self, f"_{verb}")(repo, match[2], body)

    def do_PUT(self) -> None:
        hub, oid = self.server_hub, self.path.rpartition("/")[2]
        if hub.dies_at_put and hub.puts + 1 >= hub.dies_at_put:
            self.rfile.read(10)
            self.close_connection = True
            self.connection.close()
            return
        if "put" in hub.refuse:
            self._body()
        if self._stopped("put"):
            return
        data = self._body()
        assert hashlib.sha256(data).hexdigest() == oid
        hub.blobs[oid] = data
        hub.puts += 1
        self._answer(200)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline(), 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def _stopped(self, verb: str) -> bool:
        hub = self.server_hub
        if verb in hub.hangs or (verb == "put" and 0 < hub.hangs_after <= hub.puts):
            hub.released.wait(30)
            self.close_connection = True
            return True
        if answers := hub.refuse.get(verb):
            status, message = answers.pop(0) if len(answers) > 1 else answers[0]
            self._refusal(status, message)
            return True
        return False

    def _authorized(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {self.server_hub.token}":
            return True
        self._refusal(401, "Invalid username or password.")
        return False

    def _refusal(self, status: int, message: str, headers: dict[str, str] | None = None, **more: str) -> None:
        body = json.dumps({"error": message, **more}).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "X-Error-Message": message, **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, status: int, headers: Any = None, data: bytes = b"", *, cut: bool = False) -> None:
        if self.command in ("POST", "PUT"):
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
        else:
            super()._answer(status, headers, data, cut=cut)

    def _validate(self, repo: str, revision: str, body: bytes) -> None:
        problems = wrong_metadata(json.loads(body)["content"])
        answer = json.dumps({"errors": [{"message": one} for one in problems], "warnings": []}).encode()
        self._answer(400 if problems else 200, {"Content-Type": "application/json"}, answer)

    def _create(self, repo: str, revision: str, body: bytes) -> None:
        asked = json.loads(body)
        name = f"{asked['organization']}/{asked['name']}"
        if self.server_hub.exists(name):
            self._refusal(409, "You already created this model repo", url=f"{self.server_hub.endpoint}/{name}")
            return
        self.server_hub.private[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.server_hub.publish(f"models/{name}", {".gitattributes": b"*.safetensors filter=lfs"})
        self._json({"url": f"{self.server_hub.endpoint}/{name}", "name": name, "id": "1"})

    def _preupload(self, repo: str, revision: str, body: bytes) -> None:
        there = self.server_hub.files(repo, revision)
        files = []
        for file in json.loads(body)["files"]:
            data, name = there.get(file["path"]), file["path"]
            is_lfs = "lfs" in entry(name, b"")
            oid = None if data is None else hashlib.sha256(data).hexdigest() if is_lfs else git_blob(data)
            mode = "lfs" if is_lfs else "regular"
            files.append({"path": name, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def _batch(self, repo: str, revision: str, body: bytes) -> None:
        hub, objects = self.server_hub, []
        for asked in json.loads(body)["objects"]:
            answer: dict[str, Any] = {"oid": asked["oid"], "size": asked["size"]}
            if asked["oid"] not in hub.blobs:
                upload = {"href": f"{hub.endpoint}/lfs-upload/{asked['oid']}"}
                answer["actions"] = {"upload": upload, "verify": {"href": f"{hub.endpoint}/lfs-verify/{repo}"}}
            objects.append(answer)
        self._json({"objects": objects})

    def _verify(self, repo: str, revision: str, body: bytes) -> None:
        self._answer(200 if json.loads(body)["oid"] in self.server_hub.blobs else 404)

    def _commit(self, repo: str, revision: str, body: bytes) -> None:
        hub = self.server_hub
        files = dict(hub.files(repo, revision))
        for line in body.splitlines():
            said = json.loads(line)
            key, value = said["key"], said["value"]
            if key == "header":
                hub.messages.append(value["summary"])
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = hub.blobs[value["oid"]]
        oid = hub.publish(f"models/{repo}", files, branch=revision)
        self._json({"success": True, "commitOid": oid, "commitUrl": f"{hub.endpoint}/{repo}/commit/{oid}"})

    def _branch(self, repo: str, revision: str, body: bytes) -> None:
        hub = self.server_hub
        if hub.find(f"models/{repo}", revision) is not None:
            self._refusal(409, "Reference already exists")
            return
        hub.publish(f"models/{repo}", hub.files(repo), branch=revision)
        self._answer(200)


def wrong_metadata(text: str) -> list[str]:
    """What the hub says against the metadata at a card's head: its own rules, as far as cards here can break them."""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    if not found:
        return ["empty or missing yaml metadata in repo card"]
    data, problems = yaml.safe_load(found[1]), []
    if data.get("license") not in {None, *LICENSES}:
        problems.append('"license" must be one of the identifiers')
    if data.get("license") == "other" and not (data.get("license_name") and data.get("license_link")):
        problems.append('"license_name" and "license_link" are required')
    if data.get("pipeline_tag") not in TASKS:
        problems.append('"pipeline_tag" must be a known task')
    for name in ("base_model", *(f"datasets.{at}" for at in range(len(data.get("datasets", []))))):
        value = data.get(name) if "." not in name else data["datasets"][int(name.partition(".")[2])]
        if value is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", value):
            problems.append(f'"{name}" with value "{value}" is not valid: use a model id')
    if not all(isinstance(tag, str) for tag in data.get("tags", [])):
        problems.append('"tags" must be texts')
    if data.get("base_model_relation") not in {None, "adapter", "finetune"}:
        problems.append('"base_model_relation" must be one of adapter, finetune')
    for one in data.get("widget", []):
        if "text" not in one or "url" not in one.get("output", {}):
            problems.append('"widget" must have a text and an output')
    return problems
