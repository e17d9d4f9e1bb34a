from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_the_installed_command_answers():
    command = Path(sys.executable).with_name("tunesmith")
    shown = subprocess.run([command, "--help"], capture_output=True, text=True, check=True).stdout
    assert "demo" in shown
