"""Memory kept between steps, and its effect on the rest of the process."""

import subprocess
import sys

import pytest

from sklearn_ssl._hardware.allocator import USER_VARIABLES, _glibc

needs_glibc = pytest.mark.skipif(_glibc() is None, reason="needs glibc with its own thresholds")

# Program that prints the page faults of an addition whose result takes 1 MiB, 256 pages of 4 KiB, and fits in
# no hole of the heap.
FAULTS = """
import contextlib, resource
import numpy as np
from sklearn_ssl._hardware.allocator import retain_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

big = np.ones(2**23, np.uint8)
del big  # glibc's threshold adjusts itself to 8 MiB
if {use!r} != "none":
    with contextlib.suppress(ZeroDivisionError), retain_freed_memory():
        1 / ({use!r} != "fails")
held = [np.empty(2**20 // size, np.uint8) for size in (1, 2, 4, 8) for _ in range(64 * size)]
a = np.ones(2**20, np.uint8)
for _ in range(5):
    a + a
before = faults()
for _ in range(20):
    a + a
print((faults() - before) / 20)
"""


def faults(use):
    command = [sys.executable, "-c", FAULTS.format(use=use)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.fixture(scope="module")
def faults_before():
    return faults("none")


@needs_glibc
@pytest.mark.parametrize("use", ["ends", "fails"])
def test_afterwards_a_temporary_array_takes_no_more_page_faults_than_before(use, faults_before):
    assert faults(use) <= faults_before + 8  # where each is mapped anew: 256


@needs_glibc
@pytest.mark.parametrize("name", USER_VARIABLES)
def test_thresholds_that_the_environment_sets_are_left_alone(name, monkeypatch):
    monkeypatch.setenv(name, "65536")
    assert _glibc() is None


@needs_glibc
def test_tunables_of_malloc_are_left_alone(monkeypatch):
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=65536")
    assert _glibc() is None
