"""Everything that runs on the CPU runs on another device, its tensors all in one place."""

import os
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).with_name("elsewhere")


def test_all_runs_on_another_device():
    """In a process of its own, which knows a device that is not there (see ``elsewhere/``)."""
    words = [sys.executable, "-m", "pytest", str(FOLDER), "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        words,
        env={**os.environ, "LORANK_TEST_ELSEWHERE": "1"},
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
