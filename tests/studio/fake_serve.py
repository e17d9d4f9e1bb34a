"""A stand-in for `tunesmith serve RUN --port PORT`: two models, a key, and streaming as OpenAI's protocol has it.

A question "break" breaks off in the middle, "refuse" is refused, and a run whose name holds "broken" cannot be served.
"""

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY = os.environ["TUNESMITH_SERVE_KEY"]
RUN = Path(sys.argv[2]).name


class Handler(BaseHTTPRequestHandler):
    def log_message(self, format, *args):
        pass

    def do_GET(self):
        self.answer(200, {"object": "list", "data": [{"id": RUN}, {"id": "base"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = body["messages"][-1]["content"]
        if question == "refuse":
            self.answer(400, {"error": {"message": "the question is too long for this model"}})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for piece in (f"{'BASE' if body['model'] == 'base' else 'TUNED'} says ", f"<b>{question}</b> 你好"):
            self.event({"choices": [{"delta": {"content": piece}}]})
            if question == "break":
                self.event({"error": {"message": "the model ran out of memory"}})
                return
        self.event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
        self.wfile.write(b"data: [DONE]\n\n")

    def event(self, value):
        self.wfile.write(f"data: {json.dumps(value)}\n\n".encode())
        self.wfile.flush()

    def answer(self, status, value):
        if self.headers["Authorization"] != f"Bearer {KEY}":
            status, value = 401, {"error": {"message": "the key is wrong"}}
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    if "broken" in RUN:
        sys.exit(f"tunesmith: {RUN} has no adapter; train it again")
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[4])), Handler).serve_forever()
