"""Fits that are killed at random moments, and go on from their checkpoint: do they end as they would have?

    python benchmarks/kill.py --trainings 20

Each training is a process that writes its checkpoint as soon as the last one is as long ago as its writing
took, so that much of its time is spent on that. It is sent SIGKILL after a random time, again and again,
until one lives to its end. Its embeddings, weights and history (but for times) are compared with those of a
training that nobody disturbed, bit for bit.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
import warnings

import numpy as np
from side_by_side import machine

from sklearn_ssl import SSLImageEmbedder, checkpoint
from sklearn_ssl.fingerprint import fingerprint


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainings", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--child", help="the folder of the checkpoints: be the process that trains")
    args = parser.parse_args()
    if args.child is not None:
        print(json.dumps(outcome(args.child or None, args.epochs)))
        return
    print(machine(), flush=True)
    began = time.monotonic()
    undisturbed = run("", args.epochs)
    seconds = time.monotonic() - began
    print(f"undisturbed: {undisturbed}, {seconds:.1f} s", flush=True)
    undisturbed.pop("went on")
    rng, same, went_on = random.Random(0), 0, 0
    for i in range(args.trainings):
        with tempfile.TemporaryDirectory() as folder:
            out, kills = until_it_lives(folder, args.epochs, rng, seconds)
            went_on += out.pop("went on")
            same += out == undisturbed
            print(f"training {i + 1}: killed {kills} times, the same: {out == undisturbed}", flush=True)
    print(f"{went_on} of {args.trainings} went on from a checkpoint; {same} ended as the undisturbed one")


def until_it_lives(folder: str, epochs: int, rng: random.Random, seconds: float) -> tuple[dict, int]:
    """What comes out in the end, and after how many kills."""
    kills = 0
    while (out := run(folder, epochs, kill_after=rng.uniform(0.3, 1.2) * seconds)) is None:
        kills += 1
    return out, kills


def run(folder: str, epochs: int, kill_after: float | None = None) -> dict | None:
    command = [sys.executable, __file__, "--child", folder, "--epochs", str(epochs)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            out, _ = child.communicate(timeout=kill_after)
        except subprocess.TimeoutExpired:
            child.kill()  # SIGKILL
            return None
    return json.loads(out.splitlines()[-1])


def outcome(folder: str | None, epochs: int) -> dict:
    """Train, or go on, in this process."""
    checkpoint.INTERVAL, checkpoint.SHARE = 0.0, 1.0
    images = np.random.default_rng(0).integers(0, 256, (64, 16, 16), dtype=np.uint8)
    embedder = SSLImageEmbedder(max_epochs=epochs, batch_size=8, random_state=0, checkpoint=folder)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted = embedder.fit(images)
    times = ("dur", "images_per_second")
    history = [{name: value for name, value in row.items() if name not in times} for row in fitted.history_]
    went_on = any("goes on from" in str(warning.message) for warning in caught)
    return {
        "went on": went_on,
        "weights": fingerprint(fitted.encoder_),
        "history": fingerprint(history),
        "embeddings": fingerprint(fitted.transform(images)),
    }


if __name__ == "__main__":
    main()
