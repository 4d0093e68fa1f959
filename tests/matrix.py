"""Run the tests as other machines would: `python tests/matrix.py`, or `--rows` for some rows of the matrix.

Each row is a run of pytest, and of the quickstart, with environment variables and options of its own;
together they have each value at least once. A row that this machine cannot have says why. Ends with a table
for CONTRIBUTING.md. Further arguments are pytest's:
`python tests/matrix.py --rows avx2 bf16 -- tests/contract/test_embedder.py -x`.
"""

import argparse
import datetime
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
# Dependencies of the oldest ones, whose later versions warn of what these call.
OF_THEIR_TIME = ["pyparsing<3.3", "scipy<1.16"]
COLUMNS = ("row", "passed", "failed", "skipped", "quickstart", "seconds", "date", "processor")


@dataclass
class Row:
    """A run of the tests and of the quickstart.

    Attributes
    ----------
    what : str
        One line for `--help`.
    env : dict
        Environment variables.
    options : tuple of str
        Options of pytest.
    needs : str
        A flag in /proc/cpuinfo without which the processor cannot run this row.
    elsewhere : bool
        Whether Ctrl-C is ignored, and files go to a temporary folder with a name that needs quotes.
    versions : str
        "oldest" or "newest": dependencies of these versions, in a virtual environment .venv/<versions>.
    """

    what: str
    env: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    needs: str = ""
    elsewhere: bool = False
    versions: str = ""


ROWS = {
    "plain": Row("this processor, one thread per process"),
    "old-processor": Row(
        "kernels for processors without AVX, in parallel processes; Ctrl-C ignored; elsewhere in the world",
        env={
            "ATEN_CPU_CAPABILITY": "default",
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "MKL_CBWR": "COMPATIBLE",
            "OPENBLAS_CORETYPE": "Nehalem",
            "LC_ALL": "C",
            "TZ": "Asia/Kathmandu",
        },
        options=("--bf16=absent", "-n=auto", "--maxprocesses=4"),
        elsewhere=True,
    ),
    "avx2": Row(
        "kernels for AVX2, four threads, in random order",
        env={
            "ATEN_CPU_CAPABILITY": "avx2",
            "ONEDNN_MAX_CPU_ISA": "AVX2",
            "MKL_CBWR": "AVX2",
            "OMP_NUM_THREADS": "4",
        },
        options=("--random-order-bucket=global",),
        needs="avx2",
    ),
    "bf16": Row(
        "bf16 wherever it is chosen by itself, two threads, in random order",
        env={"OMP_NUM_THREADS": "2", "LC_ALL": "de_DE.UTF-8"},
        options=("--bf16=present", "--random-order"),
    ),
    "avx512": Row(
        "convolutions for AVX512 without bf16",
        env={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        needs="avx512bw",
    ),
    "avx512-bf16": Row(
        "convolutions for AVX512-BF16 without AMX, two threads",
        env={"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16", "OMP_NUM_THREADS": "2"},
        needs="avx512_bf16",
    ),
    "oldest": Row("the oldest version of each dependency that pyproject.toml allows", versions="oldest"),
    "newest": Row("the newest version of each dependency that pip finds", versions="newest"),
}


def main() -> int:
    given = arguments()
    results = {name: run(name, ROWS[name], given.pytest) for name in given.rows}
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for name, result in results.items():
        print(f"| {name} | {' | '.join(map(str, result))} |")
    return int(any(row[1] not in (0, "-") or row[3] == "fails" for row in results.values()))


def arguments() -> argparse.Namespace:
    listed = "\n".join(f"  {name:14}{row.what}" for name, row in ROWS.items())
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=f"rows:\n{listed}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW")
    parser.add_argument("pytest", nargs="*", help="arguments of pytest, after --")
    return parser.parse_args()


def run(name: str, row: Row, further: list[str]) -> tuple:
    """Run one row of the matrix, if this machine can; return its cells without the name."""
    today = datetime.date.today().isoformat()
    if row.needs and row.needs not in cpuinfo("flags").split():
        return ("-", "-", "-", "-", "-", today, f"{processor()}: has no {row.needs}")
    print(f"\n===== {name}: {row.what}", flush=True)
    python = python_with(row.versions) if row.versions else sys.executable
    with tempfile.TemporaryDirectory(prefix="tests on ä ") as folder:
        report, started = Path(folder) / "report.xml", time.monotonic()
        command = [python, "-m", "pytest", f"--junitxml={report}", *row.options, *further]
        env = os.environ | row.env | ({"TMPDIR": folder} if row.elsewhere else {})
        settings = dict(cwd=ROOT, env=env, preexec_fn=ignore_ctrl_c if row.elsewhere else None)
        subprocess.run(command, **settings)
        example = [python, "examples/quickstart.py", f"--figure={folder}/quickstart.png"]
        quickstart = "runs" if subprocess.run(example, **settings).returncode == 0 else "fails"
        return (*counted(report), quickstart, round(time.monotonic() - started), today, processor())


def counted(report: Path) -> tuple[int, int, int]:
    """Count tests that passed, failed, and were skipped or expected to fail; no report is one failure."""
    if not report.exists():
        return 0, 1, 0
    suite = ElementTree.parse(report).getroot()[0]
    tests, failures, errors, skipped = (
        int(suite.get(key)) for key in ("tests", "failures", "errors", "skipped")
    )
    return tests - failures - errors - skipped, failures + errors, skipped


def ignore_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def cpuinfo(key: str) -> str:
    """Return the value of a line of /proc/cpuinfo, or an empty string if there is none."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith(key)), "")


def processor() -> str:
    return cpuinfo("model name") or platform.processor() or platform.machine()


def python_with(versions: str) -> str:
    """Create or update the environment .venv/<versions>, and return its interpreter."""
    folder = ROOT / ".venv" / versions
    venv.create(folder, with_pip=True)
    python = str(folder / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "-r", "requirements-dev.txt"]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        constraints.write("\n".join(oldest_versions()) if versions == "oldest" else "")
        constraints.flush()
        subprocess.run([*install, "--upgrade", "--constraint", constraints.name], cwd=ROOT, check=True)
    return python


def oldest_versions() -> list[str]:
    """Return "numpy==1.26" and the like for the lower bounds in pyproject.toml, and `OF_THEIR_TIME`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    bounds = sum(extras, project["dependencies"])
    return [*(bound.replace(">=", "==") for bound in bounds), *OF_THEIR_TIME]


if __name__ == "__main__":
    sys.exit(main())
