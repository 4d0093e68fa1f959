"""The code of the README and the examples run, with less data or time."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def code_blocks(path):
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)


def run(program, *args, cwd):
    # Fits are cut short here, which they say.
    quiet = ["-W", "error", "-W", "ignore:max_time=", "-W", "ignore::PendingDeprecationWarning"]  # rasterio's
    command = [sys.executable, *quiet, program, *args]
    # One thread each, as the tests run in several processes.
    env = {"OMP_NUM_THREADS": "1", **os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def shortened(code, folder):
    """Write a program whose fits end after a second, and return its path: what is shown is that it runs."""
    program = folder / "program.py"
    program.write_text(re.sub(r"max_time=\d+", "max_time=1", code))
    return program


def run_example(name, *args, cwd):
    return run(ROOT / "examples" / name, *args, cwd=cwd)


def test_the_readmes_code_runs_from_top_to_bottom(tmp_path):
    blocks = code_blocks(ROOT / "README.md")
    assert len(blocks) >= 6
    assert "% right from 20 labels" in run(shortened("\n".join(blocks), tmp_path), cwd=tmp_path).stdout


PAGES = sorted(
    page
    for page in [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs" / "recipes").glob("*.md")]
    if code_blocks(page)
)
# Packages without which the code of a page cannot run.
READERS = {
    "dicom": ["pydicom"],
    "nifti": ["nibabel"],
    "microscopy": ["tifffile", "zarr"],
    "tiles": ["rasterio", "openslide", "tifffile"],
}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path):
    for reader in READERS.get(page.stem, ()):
        pytest.importorskip(reader)
    run(shortened("\n".join(code_blocks(page)), tmp_path), cwd=tmp_path)


@pytest.mark.parametrize(
    "example", sorted((ROOT / "examples" / "gallery").glob("*.py")), ids=lambda e: e.stem
)
def test_an_example_of_the_gallery_prints_a_figure_and_draws_a_picture(example, tmp_path):
    code = re.sub(r"max_epochs=[1-9]\d*", "max_epochs=1", example.read_text())
    code += "\nimport matplotlib.pyplot as plt\nassert plt.get_fignums(), 'no picture'\n"
    assert re.search(r"\d", run(shortened(code, tmp_path), cwd=tmp_path).stdout)


def test_the_quickstart_prints_its_table_and_draws_its_picture(tmp_path):
    done = run_example("quickstart.py", "--seconds", "2", cwd=tmp_path)
    for row in ("raw pixels", "untrained encoder", "ntxent, 2 s"):
        assert row in done.stdout
    assert "images/s" in done.stderr  # the progress bar
    assert (tmp_path / "quickstart.png").stat().st_size > 20_000


@pytest.fixture
def photographs():
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, size=(160, 16, 16, 3), dtype=np.uint8), np.repeat(np.arange(2), 80)


def test_the_color_example_reads_an_npz(tmp_path, photographs):
    X, y = photographs
    np.savez(tmp_path / "few.npz", train_images=X, train_labels=y, test_images=X[::4], test_labels=y[::4])
    done = run_example("cifar10.py", "--data", "few.npz", "--seconds", "1", cwd=tmp_path)
    assert "untrained encoder" in done.stdout


def test_the_color_example_reads_a_folder(tmp_path, photographs):
    from PIL import Image

    for i, (image, label) in enumerate(zip(*photographs, strict=True)):
        folder = tmp_path / "photos" / f"class {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    done = run_example("cifar10.py", "--data", "photos", "--seconds", "1", cwd=tmp_path)
    assert "untrained encoder" in done.stdout


def test_the_grid_search_names_a_best_setting(tmp_path):
    done = run_example("grid_search.py", "--epochs", "1", "--images", "60", cwd=tmp_path)
    assert "Best: {" in done.stdout
    # 2 losses with 2 values each, 2 values of C, 3 folds
    assert done.stdout.count("END") == 24


def test_reconstructions_of_each_loss_are_drawn(tmp_path, photographs):
    np.savez(tmp_path / "few.npz", train_images=photographs[0], test_images=photographs[0][::4])
    losses = ("mae", "simmim", "inpainting", "colorization")
    run_example(
        "reconstructions.py", "--data", "few.npz", "--seconds", "1", "--losses", *losses, cwd=tmp_path
    )
    assert {path.name for path in tmp_path.glob("*.png")} == {
        f"reconstructions_{loss}.png" for loss in losses
    }


def test_a_loss_is_written_checked_and_trained(tmp_path):
    done = run_example("write_a_loss.py", "--seconds", "1", cwd=tmp_path)
    assert "AlignUniform keeps the contract." in done.stdout
    assert done.stdout.count("% correct") == 2


@pytest.mark.parametrize("cluster", ["dask", "ray"])
def test_a_cluster_embeds_as_one_process_does(cluster, tmp_path):
    pytest.importorskip(cluster)
    # Not with warnings as errors: they are those of the schedulers.
    command = [sys.executable, ROOT / "examples" / f"cluster_{cluster}.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    difference = re.search(r"200 rows, largest difference from one transform: (\S+)", done.stdout).group(1)
    assert float(difference) < 0.02  # workers may have another number of threads; bfloat16 has three digits
