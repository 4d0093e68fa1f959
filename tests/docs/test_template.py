"""The plugin template, copied and renamed by the commands of the documentation, and the table of methods."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest

import sklearn_ssl
from sklearn_ssl import available_losses
from sklearn_ssl.losses._registry import known_losses

ROOT = Path(__file__).parents[2]
PACKAGE, METHODS = ROOT / "docs" / "own_package.md", ROOT / "docs" / "methods.md"
LEFT_BY_BUILDS = shutil.ignore_patterns("build", "dist", "*.egg-info", "__pycache__", ".*_cache")


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """Copy the core and the template, as in a fresh clone."""
    clone = tmp_path_factory.mktemp("elsewhere") / "clone"
    for folder in ("sklearn_ssl", "plugins/sklearn-ssl-barlow-twins"):
        shutil.copytree(ROOT / folder, clone / folder, ignore=LEFT_BY_BUILDS)
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, clone)
    return clone


@pytest.fixture(scope="module")
def mine(clone):
    """Apply the commands of the page to the template."""
    [commands] = re.findall(r"^```sh\n(.*?)^```", PACKAGE.read_text(), flags=re.MULTILINE | re.DOTALL)
    run("sh", "-e", "-c", commands, cwd=clone)
    return clone.parent / "sklearn-ssl-my-loss"


@pytest.fixture(scope="module")
def site(clone, mine):
    """Install the core and the renamed template into a folder."""
    # Found by metadata: importing setuptools would replace distutils in this process.
    if not {"pip", "setuptools"} <= {each.name.lower() for each in distributions()}:
        pytest.skip("this environment has no pip and setuptools of its own")
    site = clone.parent / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    # Use installed packages only, not the network.
    run(
        *pip,
        "--no-build-isolation",
        "--no-deps",
        "--no-index",
        "--target",
        site,
        clone,
        mine,
        cwd=site.parent,
    )
    return site


def run(*command, cwd, **env):
    done = subprocess.run(command, cwd=cwd, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def run_python(*args, site, cwd):
    """Run Python with the packages of `site` before all others, and without the working folder (-P)."""
    return run(sys.executable, "-P", "-W", "error", *args, cwd=cwd, PYTHONPATH=str(site))


def test_nothing_of_the_template_keeps_its_old_name(mine):
    files = [file for file in mine.rglob("*") if file.is_file()]
    assert {file.name for file in files} == {
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "sklearn_ssl_my_loss.py",
        "test_my_loss.py",
    }
    assert not [file.name for file in files if re.search("barlow[-_]twins|BarlowTwins", file.read_text())]


def test_the_renamed_template_is_installed_and_listed_beside_an_installed_core(site, mine):
    program = (
        "import sklearn_ssl; print(sklearn_ssl.__file__);"
        "info = sklearn_ssl.available_losses(details=True)['my_loss'];"
        "print(info.distribution, info.version, info.target, info.error)"
    )
    core, info = run_python("-c", program, site=site, cwd=mine).splitlines()
    assert Path(core) == site / "sklearn_ssl" / "__init__.py"
    assert info == f"sklearn-ssl-my-loss {sklearn_ssl.__version__} sklearn_ssl_my_loss:MyLoss None"


def test_the_renamed_templates_own_tests_pass_against_the_installed_core(site, mine):
    out = run_python("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", site=site, cwd=mine)
    assert re.search(r"^\d\d passed(, \d+ skipped)? in", out, flags=re.MULTILINE), out


# ------------------------------------------------------------------ the table of methods


def rows_of_the_table():
    """Return (family, method, package) of each row that names a method."""
    pattern = r"^\| ([a-z-]+) \| `(\w+)` \| ([a-z-]+) \|"
    return re.findall(pattern, METHODS.read_text(), flags=re.MULTILINE)


def entry_points():
    """Return {method: package} of the core and of every folder in plugins/."""
    projects = [
        tomllib.loads(file.read_text())
        for file in (ROOT / "pyproject.toml", *ROOT.glob("plugins/*/pyproject.toml"))
    ]
    return {
        name: project["project"]["name"]
        for project in projects
        for name in project["project"]["entry-points"]["sklearn_ssl.losses"]
    }


def test_the_table_has_every_method_once_with_its_package_and_family():
    rows = rows_of_the_table()
    assert {method: package for _, method, package in rows} == entry_points()
    assert len(rows) == len(entry_points())
    losses = available_losses(details=True)
    assert {method: family for family, method, _ in rows} == {
        method: losses[method].family for _, method, _ in rows
    }


def test_a_method_that_is_not_installed_is_answered_with_its_package():
    ours = {method: package for method, package in entry_points().items() if package != "sklearn-ssl"}
    assert ours == known_losses()[0]
