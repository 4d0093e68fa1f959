"""Versions and distributions of the core and all plugins, which are published together.

    python tools/packages.py version 0.2.0
    python tools/packages.py build --out dist

`version` sets the version of every package, and the versions of the core that the plugins accept. `build`
makes source distributions and wheels (`pip install build`). Relative links of each README become absolute,
so that they work on the page of a package index.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LEFT_OUT = shutil.ignore_patterns("build", "dist", "*.egg-info", "__pycache__", ".*")
# [text](target) and ![text](target), where the target is neither a URL nor a place on the page.
RELATIVE_LINK = re.compile(r"(!?)(\[[^\]]*\]\()(?!https?:|#|mailto:)([^)]+)\)")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    version = commands.add_parser("version", help="set the version of all packages")
    version.add_argument("version", type=version_of)
    build = commands.add_parser("build", help="build all packages")
    build.add_argument("--out", type=Path, default=Path("dist"))
    build.add_argument(
        "--no-isolation", action="store_true", help="with the installed setuptools, without a network"
    )
    args = parser.parse_args()
    if args.command == "version":
        set_version(ROOT, args.version)
    else:
        build_all(args.out.absolute(), args.no_isolation)


def version_of(text: str) -> str:
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a version such as 0.2.0 or 0.2.0rc1")
    return text


# ------------------------------------------------------------------ versions


def set_version(root: Path, version: str) -> None:
    """Set the version of the core, of all plugins, and of the core that these need."""
    replace_in(root / "sklearn_ssl" / "__init__.py", r'(?m)^__version__ = ".*"', f'__version__ = "{version}"')
    replace_in(root / "CITATION.cff", r"(?m)^version: .*", f"version: {version}")
    for file in root.glob("plugins/*/pyproject.toml"):
        replace_in(file, r'(?m)^version = ".*"', f'version = "{version}"')
        replace_in(file, r'"sklearn-ssl(?=[^"-]*")[^"]*"', f'"{core_requirement(version)}"')


def core_requirement(version: str) -> str:
    """Return the versions of the core that a plugin of this version accepts: those of one minor version."""
    major, minor = version.split(".")[:2]
    return f"sklearn-ssl>={version},<{major}.{int(minor) + 1}"


def replace_in(file: Path, pattern: str, by: str) -> None:
    text, n = re.subn(pattern, by, file.read_text("utf-8"))
    if n != 1:
        raise SystemExit(f"{file}: {pattern!r} was found {n} times instead of once.")
    file.write_text(text, "utf-8", newline="\n")


# ------------------------------------------------------------------ distributions


def build_all(out: Path, no_isolation: bool) -> None:
    """Build the core and all plugins from copies with absolute links."""
    for folder in [ROOT, *sorted(file.parent for file in ROOT.glob("plugins/*/pyproject.toml"))]:
        with tempfile.TemporaryDirectory() as copy:
            stage(folder, Path(copy))
            options = ["--no-isolation"] if no_isolation else []
            command = [sys.executable, "-m", "build", *options, "--outdir", str(out), copy]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    print(*sorted(path.name for path in out.iterdir()), sep="\n")


def stage(folder: Path, copy: Path) -> None:
    """Copy what belongs to the package in a folder."""
    for path in folder.iterdir():
        is_package = path.is_dir() and (folder != ROOT or path.name == "sklearn_ssl")
        is_module = path.suffix == ".py" and folder != ROOT
        if is_package and not LEFT_OUT(str(folder), [path.name]):
            shutil.copytree(path, copy / path.name, ignore=LEFT_OUT)
        elif is_module or path.name in ("pyproject.toml", "LICENSE", "README.md"):
            shutil.copy(path, copy)
    readme = copy / "README.md"
    readme.write_text(with_absolute_links(readme.read_text("utf-8"), folder), "utf-8")


def with_absolute_links(text: str, folder: Path) -> str:
    """Replace relative links, and those of pictures, by links to the repository."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    repository = project["urls"]["Repository"]

    def absolute(match: re.Match) -> str:
        picture, before, target = match.groups()
        path, hash_, place = target.partition("#")
        inside = (folder / path).resolve().relative_to(ROOT)
        kind = "raw" if picture else "tree" if (ROOT / inside).is_dir() else "blob"
        return f"{picture}{before}{repository}/{kind}/main/{inside.as_posix()}{hash_}{place})"

    return RELATIVE_LINK.sub(absolute, text)


if __name__ == "__main__":
    main()
