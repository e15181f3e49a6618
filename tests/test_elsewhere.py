"""Everything that runs on the CPU runs on another device, its tensors all in one place."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils import backend_registration

if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this torch takes no device that is described in Python", allow_module_level=True)

FOLDER = Path(__file__).with_name("elsewhere")


@pytest.mark.parametrize("name", sorted(path.stem for path in FOLDER.glob("test_*.py")))
def test_it_runs_on_another_device(name):
    """In a process of its own, which knows a device that is not there (see ``elsewhere/``)."""
    file = FOLDER / f"{name}.py"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", str(file), "-q", "-p", "no:cacheprovider"],
        env={**os.environ, "LORANK_TEST_ELSEWHERE": "1"},
        cwd=FOLDER.parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 5 and " skipped" in done.stdout:  # all of them
        pytest.skip(done.stdout.strip().splitlines()[-1])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert " passed" in done.stdout
