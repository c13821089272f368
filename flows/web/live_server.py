"""The live page of a root, served for as long as a `with` block."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from flows.web.app import LiveApp
from flows.web.contained_store import ContainedStore
from flows.web.documents import Documents
from flows.web.root_reader import RootReader
from flows.web.server import PageServer
from sana.context import Context
from sana.report.live.pages import About
from sana.report.live.source import LiveRoot
from sana.store import Store

LOCAL_INTERVAL_S, S3_INTERVAL_S = 2.0, 10.0  # between two looks at storage, while somebody looks at a page


@dataclass(frozen=True)
class Served:
    """A page that is served."""

    server: PageServer
    root: LiveRoot

    @property
    def url(self) -> str:
        """Its address."""
        return self.server.url

    def link_mlflow(self, url: str) -> None:
        """Name MLflow on all pages from now on."""
        self.root.about = replace(self.root.about, mlflow_url=url)


@contextmanager
def live_page(
    store: Store, *, host: str, port: int, context: Context | None = None, title: str = ""
) -> Iterator[Served]:
    """Serve the page of a root on this address, with the data report of a config if its context is given.

    `title`: what the config is called.

    Raises:
        SanaError: the address cannot be listened on.
    """
    store = ContainedStore(store.root) if store.is_local else store
    context = replace(context, store=store) if context is not None else None
    root = LiveRoot(store, About(store.root, has_data=context is not None))
    reader = RootReader(root, interval_s=LOCAL_INTERVAL_S if store.is_local else S3_INTERVAL_S)
    app = LiveApp(root, reader, Documents(root, context, title))
    with PageServer(app.asgi(host=host), host, port) as server:
        reader.start()
        try:
            yield Served(server, root)
        finally:
            reader.close()
