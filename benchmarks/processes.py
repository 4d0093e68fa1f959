"""Compare a fit on several processes with that of one: weights, speed, messages, memory, kills.

    python benchmarks/processes.py equal                # weights of 2 processes and of 1, for each loss
    python benchmarks/processes.py speed                # images/s of 2 processes, and of 1 with 2 threads
    python benchmarks/processes.py growth               # a model of the step, for 2 to 32 devices
    python benchmarks/processes.py messages             # milliseconds of each message of a step
    python benchmarks/processes.py memory               # memory of n processes on one array of images
    python benchmarks/processes.py kill                 # kills under torchrun, against undisturbed fits
    python benchmarks/processes.py failures             # time until an error of a worker is raised here

Everything runs on CPUs, with one thread per process.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
import torch.distributed as dist
from joblib import Parallel, delayed
from sklearn.datasets import load_digits
from skorch.callbacks import Callback
from torch import Tensor, nn
from torchvision import models
from torchvision.models.resnet import BasicBlock, ResNet

from sklearn_ssl import SSLImageEmbedder, available_losses, fit_together
from sklearn_ssl._together import run_together

# Number of training images of the digits, and of images in a step; 20 steps are made.
N_IMAGES, BATCH_SIZE, STEPS = 256, 64, 20
SMALL_VIT = {"backbone__width": 64, "backbone__depth": 3}
NEED_VIT = ("beit", "data2vec", "dinov2", "ibot", "ijepa", "mae")
# Losses that cut images of 8 x 8 pixels into tiles that are too small.
TILES = ("cpc", "jigsaw", "relative_location")
KILLED = ("swav", "moco", "vicreg")
KINDS = ("float64", "float32")
# Name; number of devices; bytes/s of an all-reduce and seconds of a small message, assumed and not measured.
LINKS = (
    ("2 GPUs, PCIe", 2, 10e9, 30e-6),
    ("8 GPUs, NVLink", 8, 200e9, 30e-6),
    ("4 x 8, InfiniBand", 32, 20e9, 60e-6),
    ("4 x 1, 10 Gbit Ethernet", 4, 1e9, 150e-6),
)
# Of ResNet-18: gradients in bytes, and messages of a step that are small enough for their latency to count.
GRADIENT_BYTES, SMALL_MESSAGES = 47e6, 2 * 21 + 3


class ViewsInDouble:
    """Views, and their places, in float64."""

    def __init__(self, draw: Any):
        self.draw = draw

    def __call__(self, *args: Any) -> list[torch.Tensor]:
        return [view.double() for view in self.draw(*args)]

    def places(self, *args: Any) -> list[torch.Tensor]:
        return [place.double() for place in self.draw.places(*args)]


class InDouble(Callback):
    """Callback that trains network and loss in float64, so that only the meaning of the arithmetic counts."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        net.draw_views = ViewsInDouble(net.draw_views)
        for module in filter(None, (net.module_, net.criterion_, net.teacher)):
            module.double()
        for layer in net.kept.backbone.modules():  # images of `transform` are float32
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(lambda layer, args: (args[0].double(),))


# ---------------------------------------------------------------------------- equality


def equal(losses: list[str]) -> None:
    """Print the difference of all trained weights, in norm relative to the weights, for each loss."""
    losses = losses or sorted(available_losses())
    print(f"{STEPS} steps on digits, batch size {BATCH_SIZE}: 2 processes against 1, relative difference")
    print(f"{'loss':20}{'float64, SGD':>14}{'float32, Muon':>15}{'2 threads, Muon':>17}  ranks")
    first, second = run_together(fit_all, 2, losses)
    for loss in losses:
        one = {kind: fit_once(loss, kind) for kind in KINDS}
        two = {kind: first[loss, kind] for kind in KINDS}
        threads = run_alone(fit_once, 2, loss, "float32")
        values = [difference(one[kind], two[kind]) for kind in KINDS]
        values.append(difference(one["float32"], threads))
        alike = all(digest(first[loss, kind]) == digest(second[loss, kind]) for kind in KINDS)
        print(
            f"{loss:20}{values[0]:14.1e}{values[1]:15.1e}{values[2]:17.1e}  {'equal' if alike else 'DIFFER'}",
            flush=True,
        )


def fit_all(losses: list[str]) -> dict[tuple[str, str], dict[str, Tensor]]:
    return {(loss, kind): fit_once(loss, kind) for loss in losses for kind in KINDS}


def fit_once(loss: str, kind: str) -> dict[str, Tensor]:
    """Fit, alone or as a member of a group; return all trained weights."""
    images, labels = digits(N_IMAGES)
    if loss == "colorization":
        images = np.stack([images, images[:, ::-1], 255 - images], axis=3)
    few = np.where(np.arange(N_IMAGES) % 3 == 0, labels, -1)
    given = SMALL_VIT if loss in NEED_VIT else {"backbone": small_resnet}
    if kind == "float64":
        given = given | {"optimizer": "sgd", "lr": 0.02, "callbacks": [InDouble()]}
    embedder = SSLImageEmbedder(
        loss,
        batch_size=BATCH_SIZE,
        max_epochs=STEPS * BATCH_SIZE // N_IMAGES,
        precision="float32",
        image_size=18 if loss in TILES else "auto",
        warm_start=True,
        random_state=0,
        **given,
    )
    embedder.fit(images, few)
    parts = {part: embedder._training_state[part] for part in ("student", "teacher", "loss")}
    return {
        f"{part}.{name}": value
        for part, state in parts.items()
        for name, value in (state or {}).items()
        if value.is_floating_point()
    }


def small_resnet(in_channels: int) -> nn.Module:
    """Return a narrow ResNet of four blocks."""
    net = ResNet(BasicBlock, [1, 1, 1, 1])
    net.inplanes = 16
    net.conv1, net.bn1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
    net.maxpool = net.fc = nn.Identity()
    for i, width in enumerate((16, 16, 32, 32)):
        setattr(net, f"layer{i + 1}", net._make_layer(BasicBlock, width, 1, stride=1 + (i > 0)))
    return net


def digits(n: int) -> tuple[np.ndarray, np.ndarray]:
    data = load_digits()
    return (data.images[:n] * 15).astype(np.uint8), data.target[:n]


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """Return the norm of the difference of all weights, relative to that of the weights."""
    norms = [
        ((one[name].double() - other[name].double()).square().sum(), one[name].double().square().sum())
        for name in one
    ]
    return float((sum(d for d, _ in norms) / sum(w for _, w in norms)) ** 0.5)


def digest(weights: dict[str, Tensor]) -> str:
    return hashlib.sha256(b"".join(weights[name].numpy().tobytes() for name in sorted(weights))).hexdigest()


# ---------------------------------------------------------------------------- speed


SPEEDS = {
    "float32, 3x3-pool stem": dict(
        loss="ntxent", precision="float32", backbone="resnet18", backbone__stem="3x3-pool"
    ),
    "float32, ImageNet stem": dict(
        loss="ntxent", precision="float32", backbone="resnet18", backbone__stem="imagenet"
    ),
    "float32, mae": dict(loss="mae", precision="float32"),
    "bf16, 3x3-pool stem": dict(
        loss="ntxent", precision="bf16", backbone="resnet18", backbone__stem="3x3-pool"
    ),
}


def speed(rounds: int) -> None:
    """Print images/s of one process with two threads and of two with one each, in alternation.

    "2 apart" are two processes with half of a batch each, which train models of their own at the same time:
    what two processes together could reach if messages and waiting took no time.
    """
    for name, settings in SPEEDS.items():
        if name.startswith("bf16") and not torch.cpu._is_avx512_bf16_supported():
            print(f"{name:26} this processor has no bf16")
            continue
        rates: dict[str, list[float]] = {
            "1 x 2 threads": [],
            "2 x 1 thread": [],
            "2 apart": [],
            "1 x 1 thread": [],
        }
        for _ in range(rounds):
            rates["2 apart"].append(two_apart(settings))
            rates["1 x 2 threads"].append(run_alone(timed_fit, 2, settings))
            rates["2 x 1 thread"] += run_together(timed_fit, 2, settings)[:1]
            rates["1 x 1 thread"].append(run_alone(timed_fit, 1, settings))
        medians = {kind: float(np.median(values)) for kind, values in rates.items()}
        print(
            f"{name:26}"
            + "".join(f"{kind}: {value:6.1f} images/s   " for kind, value in medians.items())
            + f"2 processes / 2 threads: {medians['2 x 1 thread'] / medians['1 x 2 threads']:.2f}",
            flush=True,
        )


def run_alone(function: Callable[..., Any], threads: int, *args: Any) -> Any:
    """Call the function in this process with some threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return function(*args)
    finally:
        torch.set_num_threads(before)


def timed_fit(settings: dict[str, Any], threads: int | None = None, batch_size: int = 256) -> float:
    """Train on random 32-pixel photos, two batches an epoch; return images/s of the fastest of two epochs."""
    torch.set_num_threads(threads or torch.get_num_threads())
    images = np.random.default_rng(0).integers(0, 256, (2 * batch_size, 32, 32, 3), np.uint8)
    embedder = SSLImageEmbedder(batch_size=batch_size, max_epochs=3, random_state=0, **settings).fit(images)
    return max(row["images_per_second"] for row in embedder.history_[1:])


def two_apart(settings: dict[str, Any]) -> float:
    """Return images/s of two processes together, each of which trains a model of its own."""
    return sum(Parallel(2)(delayed(timed_fit)(settings, threads=1, batch_size=128) for _ in range(2)))


def messages(rounds: int) -> None:
    """Print the time of the messages of a step of ResNet-18."""
    for name, milliseconds, number in run_together(time_messages, 2, rounds)[0]:
        print(f"{name:58}{milliseconds:8.2f} ms, {number} in a step")


class TimesOptimizer(Callback):
    """Callback that measures the seconds of each step of the optimizer, the part that is not shared out."""

    def on_train_begin(self, net: Any, **kwargs: Any) -> None:
        self.seconds: list[float] = []
        step = net.optimizer_.step

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            result = step(*args, **kwargs)
            self.seconds.append(time.perf_counter() - begin)
            return result

        net.optimizer_.step = timed


def growth(rounds: int) -> None:
    """Print the step of 1, 2 and 4 processes here by a model and by measurement, and what others would give.

    With n processes, a step of a batch takes serial + (step - serial) / n + messages: the optimizer runs in
    each process, all else is shared out. Here, where 4 processes share 2 cores, the first two are doubled.
    """
    settings = SPEEDS["float32, ImageNet stem"]
    times = TimesOptimizer()
    step = 256 / run_alone(timed_fit, 1, settings | {"callbacks": [times]})
    serial = float(np.median(times.seconds))
    print(f"one process, one thread: {step:.2f} s per step of 256 images, {serial:.2f} s are the optimizer's")
    cores = joblib.cpu_count()
    for n in (2, 4):
        sent = sum(ms * number for _, ms, number in run_together(time_messages, n, rounds)[0]) / 1000
        crowd = max(1.0, n / cores)
        model = crowd * (serial + (step - serial) / n) + sent
        measured = 256 / run_together(timed_fit, n, settings, 1)[0]
        print(f"{n} processes: messages {sent:.2f} s; step: model {model:.2f} s, measured {measured:.2f} s")
    print("\nShare of n-fold speed by the model, ResNet-18 in float32 (serial part: 5 ms):")
    print("step on one device          " + "".join(f"{name:>26}" for name, *_ in LINKS))
    for milliseconds in (20, 50, 200, 1000):
        shares = [modeled_share(milliseconds / 1000, 0.005, *link) for _, *link in LINKS]
        print(f"{milliseconds:6} ms                   " + "".join(f"{share:26.2f}" for share in shares))


def modeled_share(step: float, serial: float, n: int, bandwidth: float, latency: float) -> float:
    """Return the speed of n devices, as a share of n times that of one."""
    sent = SMALL_MESSAGES * latency + 2 * (n - 1) / n * GRADIENT_BYTES / bandwidth
    return step / (serial + (step - serial) / n + sent) / n


def time_messages(rounds: int) -> list[tuple[str, float, int]]:
    from sklearn_ssl._distributed.team import present_team

    with present_team() as team:
        team.connect(torch.device("cpu"))
        norm = torch.zeros(2 * 512 + 1)
        gradients = [torch.zeros_like(weight) for weight in models.resnet18().parameters()]
        kinds = {
            "gradients of ResNet-18, 11.7 million values": (lambda: team.average(gradients), 1),
            "statistics of a BatchNorm of 512 channels, forward": (lambda: team.gather_equal(norm), 21),
            "sums of a BatchNorm of 512 channels, backward": (lambda: team.add_up(norm), 21),
            "projections of 2 views of 256 images, 128 wide": (
                lambda: team.gather_values(torch.zeros(128, 2, 128), 256),
                1,
            ),
            "agreement on the time": (lambda: team.sums(0.0, 0.0, 0.0), 2),
        }
        times = []
        for name, (send, number) in kinds.items():
            taken = []
            for _ in range(rounds * 10):
                begin = time.perf_counter()
                send()
                taken.append(time.perf_counter() - begin)
            times.append((name, 1000 * float(np.median(taken)), number))
        return times


# ---------------------------------------------------------------------------- memory


def memory() -> None:
    """Print the private memory of processes that train on a small array, and on one of 768 MB."""
    for n_images, n in ((1024, 2), (262_144, 2), (262_144, 3)):
        images = np.random.default_rng(0).integers(0, 256, (n_images, 32, 32, 3), np.uint8)
        private = run_together_on(images, n)
        print(
            f"{n} processes on one array of {images.nbytes / 2**20:.0f} MB: "
            + ", ".join(f"{value:.0f} MB" for value in private)
            + " of their own"
        )


def run_together_on(images: np.ndarray, n: int) -> list[float]:
    """Fit for a few steps on n processes; return the private memory of each at its end, in MB."""
    with tempfile.TemporaryDirectory() as folder:
        callback = [PrivateMemory(folder)]
        embedder = SSLImageEmbedder("ntxent", max_time=5, batch_size=64, random_state=0, callbacks=callback)
        fit_together(embedder, images, n_processes=n)
        return [float(path.read_text()) for path in sorted(Path(folder).iterdir())]


class PrivateMemory(Callback):
    """Callback that writes the memory in MB that this process has for itself, apart from mapped files."""

    def __init__(self, folder: str):
        self.folder = folder

    def on_train_end(self, net: Any, **kwargs: Any) -> None:
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))
        (Path(self.folder) / str(dist.get_rank())).write_text(str(kilobytes / 1024))


# ---------------------------------------------------------------------------- kills and failures


def kill(trials: int) -> None:
    """Kill a random rank of a fit under torchrun at random; print whether the result is as undisturbed."""
    right = 0
    undisturbed = {loss: run_torchrun(loss, None) for loss in KILLED}
    for trial in range(trials):
        loss = KILLED[trial % len(KILLED)]
        draw = random.Random(trial)
        expected, length = undisturbed[loss]
        moment = draw.uniform(0.3, 0.75) * length
        given = (draw.randrange(2), moment, signal.SIGTERM if trial % 4 == 3 else signal.SIGKILL)
        found, _ = run_torchrun(loss, given)
        right += found == expected
        what = "the same bits" if found == expected else f"DIFFERS: {found} and not {expected}"
        print(
            f"trial {trial + 1}: {loss}, rank {given[0]}, {given[2].name} after {moment:.1f} of "
            f"{length:.1f} s: {what}",
            flush=True,
        )
    print(f"{right} of {trials} ended with the bits of the undisturbed fit")


def run_torchrun(loss: str, kill_at: tuple[int, float, signal.Signals] | None) -> tuple[str, float]:
    """Fit under torchrun with a checkpoint, killing a rank; return the digest of the weights, and seconds."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        command += ["--max-restarts", "3", __file__, "member", loss, folder]
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},  # see docs/several_devices.md
        )
        if kill_at:
            rank, moment, sent = kill_at
            time.sleep(max(0.0, moment - (time.monotonic() - began)))
            path = Path(folder) / f"pid-{rank}"
            if path.exists():
                with suppress(ProcessLookupError):  # it has just ended by itself
                    os.kill(int(path.read_text()), sent)
        process.wait()
        digests = {path.read_text() for path in Path(folder).glob("digest-*")}
        return ", ".join(sorted(digests)), time.monotonic() - began


def member(loss: str, folder: str) -> None:
    """Fit as a rank under torchrun."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    (Path(folder) / f"pid-{dist.get_rank()}").write_text(str(os.getpid()))
    images, _ = digits(N_IMAGES)
    embedder = SSLImageEmbedder(
        loss,
        batch_size=BATCH_SIZE,
        max_epochs=8,
        backbone=small_resnet,
        precision="float32",
        random_state=0,
        checkpoint=folder,
    ).fit(images)
    weights = {name: value for name, value in embedder.encoder_.state_dict().items()}
    (Path(folder) / f"digest-{dist.get_rank()}").write_text(digest(weights))
    dist.destroy_process_group()


def failures() -> None:
    """Print how long an error of a worker takes to be raised here, and what it says."""
    for name in ("exception", "SIGKILL"):
        began = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            callback = Fails(name, folder)
            embedder = SSLImageEmbedder("ntxent", max_time=60, batch_size=64, callbacks=[callback])
            try:
                fit_together(embedder, digits(N_IMAGES)[0], n_processes=2)
            except Exception as error:
                failed = float((Path(folder) / "failed").read_text())
                print(f"{name}: after {time.time() - failed:.1f} s, {type(error).__name__}: {error}")
        print(f"  ({time.monotonic() - began:.1f} s in all, the start of the processes included)")


class Fails(Callback):
    """Callback that raises, or kills its process, in the third step of process 1."""

    def __init__(self, how: str, folder: str):
        self.how = how
        self.folder = folder

    def on_batch_end(self, net: Any, **kwargs: Any) -> None:
        if dist.get_rank() == 1 and net.steps_done == 3:
            (Path(self.folder) / "failed").write_text(str(time.time()))
            if self.how == "SIGKILL":
                os.kill(os.getpid(), signal.SIGKILL)
            raise ValueError("a callback failed on purpose")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "what", choices=["equal", "speed", "growth", "messages", "memory", "kill", "failures", "member"]
    )
    parser.add_argument("arguments", nargs="*", help="of equal: names of losses")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12)
    given = parser.parse_args()
    torch.set_num_threads(1)
    match given.what:
        case "equal":
            equal(given.arguments)
        case "speed":
            speed(given.rounds)
        case "growth":
            growth(given.rounds)
        case "messages":
            messages(given.rounds)
        case "memory":
            memory()
        case "kill":
            kill(given.trials)
        case "failures":
            failures()
        case "member":
            member(*given.arguments)


if __name__ == "__main__":
    main()
