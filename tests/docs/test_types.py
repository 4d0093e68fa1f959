"""A user's program and a plugin pass mypy --strict."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sklearn_ssl

ROOT = Path(__file__).parents[2]
PROGRAM = """
import numpy as np
from numpy.typing import NDArray
from sklearn_ssl import SSLImageEmbedder, available_losses, get_scorer, list_images, load, metrics, param_grid

images: NDArray[np.uint8] = np.zeros((4, 8, 8), np.uint8)
embedder = SSLImageEmbedder("vicreg", max_epochs=1, loss__cov_coeff=0.5, random_state=0).fit(images)
embeddings = embedder.transform(images)
rank: float = metrics.rankme(embeddings)
losses: list[float] = [row["train_loss"] for row in embedder.history_]
names: list[str] = [info.name for info in available_losses(details=True).values()]
score: float = get_scorer("rankme")(embedder, images)
grid = param_grid(embedder, {"loss": ["ntxent", "dcl"]})
embedder.set_params(loss="dcl").save("model.safetensors")
same: SSLImageEmbedder = load("model.safetensors")
paths = [path.stem for path in list_images("photos")]
"""
PLUGIN = '''
import torch
from torch import Tensor
from sklearn_ssl import Batch, Spec, SSLLoss, ViewSpec
from sklearn_ssl.losses import Student, Teacher, check_number, mlp


class Pairs(SSLLoss):
    """A loss of two projections, which names its arguments."""

    view_spec = ViewSpec(2)
    family = "mine"

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = check_number("loss__weight", weight, above=0)

    def forward(self, z1: Tensor, z2: Tensor) -> Tensor:
        return self.weight * (z1 - z2).square().mean()


class Predicts(SSLLoss):
    """A method with a teacher and a predictor."""

    teacher_momentum = 0.99
    defaults = {"lr": 0.01}

    def build(self, spec: Spec) -> None:
        self.predictor = mlp(spec.dim, 32, spec.dim)

    def step(self, batch: Batch, student: Student, teacher: Teacher | None) -> dict[str, Tensor]:
        assert teacher is not None
        z, t = student(batch.views), teacher(batch.views)
        loss = torch.stack([(self.predictor(a) - b).square().mean() for a, b in zip(z, t)]).mean()
        return {"loss": loss}
'''


WRONG = """
import sklearn_ssl
sklearn_ssl.list_images(3)
"""
TEMPLATE = ROOT / "plugins" / "sklearn-ssl-barlow-twins" / "sklearn_ssl_barlow_twins.py"


def test_code_of_users_and_the_template_of_plugins_pass_mypy_strict(tmp_path):
    pytest.importorskip("mypy")
    for name, code in {"program": PROGRAM, "plugin": PLUGIN, "wrong": WRONG}.items():
        (tmp_path / f"{name}.py").write_text(code)
    # scikit-learn and skorch have no types, and imported modules are not the user's to mend.
    command = [sys.executable, "-m", "mypy", "--strict"]
    command += ["--follow-imports=silent", "--ignore-missing-imports"]
    package = Path(sklearn_ssl.__file__).parents[1]
    # mypy does not see editable installs.
    env = {**os.environ, **({} if package.name == "site-packages" else {"MYPYPATH": str(package)})}
    files = ["program.py", "plugin.py", TEMPLATE, "wrong.py"]
    done = subprocess.run([*command, *files], cwd=tmp_path, env=env, capture_output=True, text=True)
    errors = [line for line in done.stdout.splitlines() if "error:" in line]
    assert len(errors) == 1, done.stdout + done.stderr  # that of wrong.py
    assert errors[0].startswith("wrong.py:3: error:")
