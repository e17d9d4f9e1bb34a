"""The port is taken first, and Ctrl-C lets streams end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest
from starlette.applications import Starlette

from tunesmith.errors import ServingError
from tunesmith.serving.running import serve_app

SERVER = """
import asyncio
from starlette.applications import Starlette
from starlette.responses import StreamingResponse
from starlette.routing import Route
from tunesmith.serving.running import serve_app

stop = asyncio.Event()

async def endless():
    yield "begun"
    await stop.wait()
    yield " and ended"

app = Starlette(routes=[Route("/", lambda request: StreamingResponse(endless()))])
serve_app(app, "127.0.0.1", 0, on_ready=lambda url: print(url, flush=True), on_stop=STOP)
print("left")
"""


def started(on_stop: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = SERVER.replace("STOP", on_stop)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)


def test_ctrl_c_ends_a_stream_properly_and_then_the_server():
    with started("stop.set") as server:
        assert server.stdout is not None
        with urllib.request.urlopen(server.stdout.readline().strip()) as answer:
            assert answer.read(5) == b"begun"
            server.send_signal(signal.SIGINT)
            assert answer.read() == b" and ended"
        assert server.stdout.read() == "left\n"
    assert server.returncode == 0


def test_a_second_ctrl_c_waits_for_nobody():
    with started("lambda: print('asked', flush=True)") as server:
        assert server.stdout is not None
        with urllib.request.urlopen(server.stdout.readline().strip()) as answer:
            assert answer.read(5) == b"begun"
            server.send_signal(signal.SIGINT)
            assert server.stdout.readline() == "asked\n"
            server.send_signal(signal.SIGINT)
            assert server.wait(4) == 0


def test_a_port_in_use_is_said_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(ServingError, match=rf"^port {port} of 127.0.0.1 is in use; give another with --port$"):
            serve_app(Starlette(), "127.0.0.1", port, on_ready=print)


def test_an_address_of_another_machine_is_said_in_one_sentence():
    with pytest.raises(ServingError, match=r"^192.0.2.1 is no address of this machine \(.*\); give another with --h"):
        serve_app(Starlette(), "192.0.2.1", 0, on_ready=print)
    for host in ("a..b", "nowhere.invalid"):
        with pytest.raises(ServingError, match=f"^{host} is no address; give another with --host$"):
            serve_app(Starlette(), host, 0, on_ready=print)
