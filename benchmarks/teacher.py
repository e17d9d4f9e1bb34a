"""How near to the ideal time a teacher is asked, and in how much memory: against a server that only waits.

python benchmarks/teacher.py --questions 480 --seconds 0.5
python benchmarks/teacher.py --questions 100000 --seconds 0
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "teacher"))


def serve(seconds: float, port: multiprocessing.Queue[int]) -> None:
    from fake_teacher import FakeTeacher

    fake = FakeTeacher(seconds=seconds)
    fake.start()
    port.put(fake.port)
    while True:  # what it has seen is of no use here, and grows
        time.sleep(0.5)
        for kept in (fake.seen, fake.answered, fake.times):
            kept.clear()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, default=480)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--parallel", type=int, default=16)
    asked = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    port = context.Queue()
    server = context.Process(target=serve, args=(asked.seconds, port), daemon=True)
    server.start()
    with tempfile.TemporaryDirectory() as name:
        measure(Path(name), f"http://127.0.0.1:{port.get()}/v1", asked)
    server.kill()


def measure(folder: Path, url: str, asked: argparse.Namespace) -> None:
    from fake_teacher import name_of  # pyright: ignore[reportMissingImports]

    from tunesmith.settings import TeacherSettings
    from tunesmith.teacher.teach import Teacher

    questions = [f"How do I use the {name_of(i)} of a mill?" for i in range(asked.questions)]
    (folder / "questions.json").write_text(json.dumps(questions))
    settings = TeacherSettings.model_validate({
        "url": url, "model": "teacher-1", "way": "questions", "sources": ["questions.json"], "held_out": 0.0,
        "parallel": asked.parallel,
    })  # fmt: skip
    began, replied = time.monotonic(), 0.0
    for progress in Teacher(settings, folder, folder / "teacher", lambda: False).run():
        if progress.event == "asked":
            replied = time.monotonic() - began
    rounds = -(-asked.questions // asked.parallel)
    factor = 1 if sys.platform == "darwin" else 1024
    print(json.dumps({
        "questions": asked.questions, "parallel": asked.parallel, "ideal_seconds": rounds * asked.seconds,
        "seconds_asking": round(replied, 2), "seconds_all": round(time.monotonic() - began, 2),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * factor // 1_000_000,
        "rows": json.loads((folder / "teacher" / "report.json").read_text())["rows"],
    }))  # fmt: skip


if __name__ == "__main__":
    main()
