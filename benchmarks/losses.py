"""Time and memory of our losses, those of other libraries, and plain implementations of the formulas.

    pip install -r requirements-bench.txt && python benchmarks/losses.py

1. Milliseconds of forward and backward of NT-Xent and DCL, by the number of projections N = 2n of width
   128: ours, lightly's, one masked N x N matrix with autograd, and, up to N = 256, pytorch-metric-learning's,
   whose memory grows as N³.
2. The same for VICReg and lightly's, for few wide and for many narrower projections.
3. Memory that forward and backward allocate, each in a fresh process (Linux only).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from lightly.loss import DCLLoss, NTXentLoss, VICRegLoss
from pytorch_metric_learning.losses import NTXentLoss as MetricLearningNTXent
from side_by_side import alternate, machine, seconds, show
from torch import Tensor

from sklearn_ssl.losses import DCL, NTXent, VICReg

TEMPERATURE, WIDTH, LARGEST_FOR_METRIC_LEARNING = 0.5, 128, 256
Loss = Callable[[Tensor, Tensor], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", nargs="+", type=int, default=[256, 512, 1024, 2048, 4096])
    parser.add_argument("--memory-at", type=int, default=16384, help="number of projections")
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    print(machine())
    for size in args.sizes:
        compare("NT-Xent", ntxent_cases(size), size // 2, WIDTH, args.repeats)
        compare("DCL", dcl_cases(), size // 2, WIDTH, args.repeats)
    for n, d in ((256, 2048), (2048, 512)):
        compare("VICReg", vicreg_cases(), n, d, args.repeats)
    report_memory(args.memory_at)


# ------------------------------------------------------------------ the cases


def ntxent_cases(size: int) -> dict[str, Loss]:
    cases: dict[str, Loss] = {
        "ours": NTXent(TEMPERATURE),
        "lightly": NTXentLoss(TEMPERATURE),
        "one masked matrix": plain_ntxent,
    }
    if size <= LARGEST_FOR_METRIC_LEARNING:
        cases["pytorch-metric-learning"] = metric_learning_ntxent
    return cases


def dcl_cases() -> dict[str, Loss]:
    return {"ours": DCL(TEMPERATURE), "lightly": DCLLoss(TEMPERATURE), "one masked matrix": plain_dcl}


def vicreg_cases() -> dict[str, Loss]:
    ours = VICReg()
    return {"ours": lambda *z: ours(*z)["loss"], "lightly": VICRegLoss()}


def plain_ntxent(z1: Tensor, z2: Tensor) -> Tensor:
    s = similarities(z1, z2)
    s = s.masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device), float("-inf"))
    return F.cross_entropy(s, torch.arange(len(s), device=s.device).roll(len(z1)))


def plain_dcl(z1: Tensor, z2: Tensor) -> Tensor:
    n, s = len(z1), similarities(z1, z2)
    positive = torch.cat([s.diagonal(n), s.diagonal(-n)])
    same_image = torch.eye(n, dtype=torch.bool, device=s.device).repeat(2, 2)
    return (s.masked_fill(same_image, float("-inf")).logsumexp(dim=1) - positive).mean()


def similarities(z1: Tensor, z2: Tensor) -> Tensor:
    z = F.normalize(torch.cat([z1, z2]), dim=1)
    return z @ z.T / TEMPERATURE  # (2n, 2n)


def metric_learning_ntxent(z1: Tensor, z2: Tensor) -> Tensor:
    labels = torch.arange(len(z1), device=z1.device).repeat(2)
    return MetricLearningNTXent(temperature=TEMPERATURE)(torch.cat([z1, z2]), labels)


# ------------------------------------------------------------------ time


def compare(name: str, cases: dict[str, Loss], n: int, d: int, repeats: int) -> None:
    """Print milliseconds of forward and backward, and values that differ from ours."""
    print(f"\n{name}, N = {2 * n} projections of width {d}")
    z = projections(n, d)
    values = {case: loss(*z).item() for case, loss in cases.items()}  # the first call also warms up
    for case, value in values.items():
        if abs(value - values["ours"]) > 1e-4 * abs(value):
            print(f"{case} has the value {value:.6g}, ours {values['ours']:.6g}")
    runs = {
        case: lambda loss=loss: 1e3 * seconds(lambda: loss(*z).backward()) for case, loss in cases.items()
    }
    show(alternate(runs, repeats), "ms", "ours")


def projections(n: int, d: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(n, d, generator=generator).requires_grad_() for _ in range(2)]


# ------------------------------------------------------------------ memory


def report_memory(size: int) -> None:
    print(f"\nadditional memory, N = {size} projections of width {WIDTH}")
    print(f"{'one copy of the N x N matrix, computed':40}{size**2 * 4 / 2**20:8,.0f} MB")
    if not Path("/proc/self/status").exists():
        return
    for name in ("NT-Xent", "DCL"):
        code = f"import losses; losses.print_peak({name!r}, {size})"
        here = Path(__file__).parent
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=here, check=True, capture_output=True, text=True
        )
        print(f"{'ours, ' + name:40}{float(done.stdout):8,.0f} MB", flush=True)


def print_peak(name: str, size: int) -> None:
    """Print by how many MB forward and backward increase the peak memory of this process, a fresh one."""
    loss = {"NT-Xent": NTXent, "DCL": DCL}[name](TEMPERATURE)
    loss(*projections(8, WIDTH)).backward()
    z = projections(size // 2, WIDTH)
    before = peak()
    loss(*z).backward()
    print(peak() - before)


def peak() -> float:
    """Return the peak memory of this process in MB; `ru_maxrss` would start at the value of the parent."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


if __name__ == "__main__":
    main()
