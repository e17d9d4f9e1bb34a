"""An app answering on a port of its own, in a thread of the test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from tunesmith.serving.running import listening, url_of


@contextmanager
def answering(app: Any) -> Iterator[str]:
    with listening("127.0.0.1", 0) as taken:
        config = uvicorn.Config(app, lifespan="on", ws="none", log_config=None, log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [taken]})
        thread.start()
        try:
            yield url_of(taken)
        finally:
            server.should_exit = True
            thread.join()
