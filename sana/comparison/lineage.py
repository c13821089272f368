"""The artifacts that an artifact was made of, found by what they hold: recipes name contents, not addresses."""

from collections.abc import Iterator

from sana.artifact import Artifact, history
from sana.store import Store

INDEX = "index.parquet"


class Lineage:
    """The artifacts of one root; each stage's are read once, the newest first, and only as far as they are needed."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._read: dict[str, list[Artifact]] = {}
        self._unread: dict[str, Iterator[Artifact]] = {}

    def all(self, stage: str) -> Iterator[Artifact]:
        """Yield a stage's artifacts, that which was committed last first; each once."""
        read = self._read.setdefault(stage, [])
        unread = self._unread.setdefault(stage, history(self.store, stage))
        yield from list(read)
        known = {artifact.fingerprint for artifact in read}
        for artifact in unread:
            if artifact.fingerprint not in known:  # one that was committed again is in the history twice
                known.add(artifact.fingerprint)
                read.append(artifact)
                yield artifact

    def with_content(self, stage: str, view: str, digest: str | None) -> Artifact | None:
        """Return the newest artifact of a stage whose view of this name holds this; None: gc removed all of them."""
        return next((one for one in self.all(stage) if digest and one.content.get(view) == digest), None)

    def with_input(self, stage: str, name: str, digest: str | None) -> Artifact | None:
        """Return the newest artifact of a stage that read this content as its input of this name, or None."""
        return next((one for one in self.all(stage) if digest and one.inputs.get(name) == digest), None)

    def latents(self, artifact: Artifact, view: str, key: str = "latents") -> Artifact | None:
        """Return what encode_latents made, of which train or evaluate read the view `train` or `eval`."""
        return self.with_content("encode_latents", view, artifact.inputs.get(key))

    def captions(self, artifact: Artifact, view: str, key: str = "captions") -> Artifact | None:
        """Return what encode_captions made, of which train, evaluate or sample read this view."""
        return self.with_content("encode_captions", view, artifact.inputs.get(key))

    def clips(self, latents: Artifact) -> Artifact | None:
        """Return the table of windows with their paths that encode_latents read: bucket's, or of a filter after it."""
        read = latents.inputs.get("windows")
        found = (self.with_content(stage, "windows", read) for stage in ("bucket", "encode_masks", "encode_features"))
        return next((one for one in found if one is not None), None)
