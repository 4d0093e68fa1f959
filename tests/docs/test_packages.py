"""Distributions of the core and the plugins: contents, metadata and links."""

import re
import subprocess
import sys
import tomllib
import zipfile
from email import message_from_string
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

import sklearn_ssl

ROOT = Path(__file__).resolve().parents[2]
_spec = spec_from_file_location("packages", ROOT / "tools" / "packages.py")
packages = module_from_spec(_spec)
_spec.loader.exec_module(packages)
PLUGINS = sorted(file.parent.name for file in ROOT.glob("plugins/*/pyproject.toml"))


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Build all distributions, without a network."""
    if find_spec("build") is None:
        pytest.skip("needs the package build")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, ROOT / "tools" / "packages.py", "build", "--no-isolation", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def wheel(dist, name):
    [path] = dist.glob(f"{name.replace('-', '_')}-*.whl")
    return zipfile.ZipFile(path)


def metadata_of(archive):
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    return message_from_string(archive.read(name).decode())


def test_every_package_has_a_wheel_and_a_source_distribution(dist):
    for name in ("sklearn-ssl", *PLUGINS):
        assert len(list(dist.glob(f"{name.replace('-', '_')}-*"))) == 2
    assert len(list(dist.iterdir())) == 2 * (1 + len(PLUGINS))


def test_an_index_accepts_the_distributions(dist):
    pytest.importorskip("twine")
    command = [sys.executable, "-m", "twine", "check", "--strict", *dist.iterdir()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("name", ["sklearn-ssl", *PLUGINS])
def test_a_wheel_has_its_license_links_and_no_tests(dist, name):
    archive = wheel(dist, name)
    files = archive.namelist()
    assert any(file.endswith("licenses/LICENSE") for file in files)
    assert not [file for file in files if "test_" in file]
    metadata = metadata_of(archive)
    assert metadata["License-Expression"] == "MIT"
    assert any(url.startswith("Documentation, https://") for url in metadata.get_all("Project-URL"))
    readme = metadata.get_payload() or metadata["Description"]
    assert re.findall(r'\]\((?!https?:|#|mailto:)|src="(?!https?:)', readme) == []


@pytest.mark.parametrize("name", PLUGINS)
def test_a_plugin_names_the_core_that_it_needs(dist, name):
    needed = metadata_of(wheel(dist, name)).get_all("Requires-Dist")
    [core] = [each for each in needed if re.match(r"sklearn-ssl\b(?!-)", each)]
    expected = packages.core_requirement(sklearn_ssl.__version__)  # metadata may have it in another order
    assert sorted(re.split("[ ,]|(?=[<>])", core)) == sorted(re.split("[ ,]|(?=[<>])", expected))


def test_links_of_a_readme_lead_to_the_repository():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    repository = project["urls"]["Repository"]
    absolute = {
        "![p](docs/quickstart.png)": f"![p]({repository}/raw/main/docs/quickstart.png)",
        "[t](docs/methods.md#which-one)": f"[t]({repository}/blob/main/docs/methods.md#which-one)",
        "[f](examples)": f"[f]({repository}/tree/main/examples)",
        "[u](https://a.example)": "[u](https://a.example)",
        "[h](#x)": "[h](#x)",
    }
    for given, expected in absolute.items():
        assert packages.with_absolute_links(given, ROOT) == expected


def test_one_command_sets_all_versions(tmp_path):
    for file in (
        "CITATION.cff",
        "sklearn_ssl/__init__.py",
        *(f"plugins/{p}/pyproject.toml" for p in PLUGINS),
    ):
        target = tmp_path / file
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((ROOT / file).read_text())
    packages.set_version(tmp_path, "1.3.0")
    assert '__version__ = "1.3.0"' in (tmp_path / "sklearn_ssl" / "__init__.py").read_text()
    assert "version: 1.3.0" in (tmp_path / "CITATION.cff").read_text()
    for plugin in PLUGINS:
        project = tomllib.loads((tmp_path / "plugins" / plugin / "pyproject.toml").read_text())["project"]
        assert project["version"] == "1.3.0"
        assert "sklearn-ssl>=1.3.0,<1.4" in project["dependencies"]
