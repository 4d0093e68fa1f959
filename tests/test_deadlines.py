"""No test waits for ever: a replaced worker process ends no search, and a deadline shows all stacks."""

import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import joblib
import pytest
from joblib.externals.loky import process_executor

ROOT = Path(__file__).parents[1]


def looks_as_if_memory_had_grown(i):
    if i == 0:
        process_executor._MAX_MEMORY_LEAK_SIZE = -sys.maxsize
        process_executor._MEMORY_LEAK_CHECK_DELAY = -1
    time.sleep(0.1)


@pytest.mark.usefixtures("sent_by_value")
def test_joblib_replaces_a_worker_and_goes_on():
    pytest.importorskip("psutil", reason="by which joblib sees the memory of its workers")
    jobs = [joblib.delayed(looks_as_if_memory_had_grown)(i) for i in range(12)]
    with warnings.catch_warnings(record=True) as caught:  # by the filters of pyproject.toml
        # As an error, the warning would end the thread that fetches the results: then the time limit raises.
        joblib.Parallel(n_jobs=2, batch_size=1, timeout=100)(jobs)
    assert {str(warning.message)[:16] for warning in caught} == {"A worker stopped"}


HANGS = """
import subprocess
import sys

program = "import time\\ndef waits():\\n    print('ready', flush=True)\\n    time.sleep(1000)\\nwaits()"
child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
child.stdout.readline()

def test_waits_for_a_child():
    assert child.wait() == 0

def test_goes_on():
    pass
"""


def test_a_test_past_its_deadline_fails_with_the_stacks_of_its_processes(tmp_path):
    (tmp_path / "test_hangs.py").write_text(HANGS)
    for name in ("conftest.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    # The last seconds before a deadline begin at once where there are no others.
    command = [sys.executable, "-m", "pytest", "-n=0", "--timeout=20", "test_hangs.py"]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).stdout
    assert "1 failed, 1 passed" in output
    assert "in test_waits_for_a_child" in output
    assert "in waits" in output
