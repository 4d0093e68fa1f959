"""Configuration of the documentation.

pip install -r requirements-dev.txt
sphinx-build -W docs docs/_build/html
"""

import sys
import warnings
from pathlib import Path

import matplotlib

sys.path.insert(0, str(Path(__file__).parent / "_ext"))
matplotlib.use("Agg")

from inventories import write_inventories

import sklearn_ssl

project = "sklearn-ssl"
author = "the sklearn-ssl developers"
copyright = author
version = release = sklearn_ssl.__version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx.ext.intersphinx",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "sphinx-mathjax-offline",
    "registry_pages",
]
exclude_patterns = ["_build", "**/GALLERY_HEADER.rst"]
templates_path = ["_templates"]

# Every reference resolves: to a page, to an object, or to an inventory in `inventories/`.
nitpicky = True
default_role = "literal"
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Docstrings
autosummary_generate = True
autodoc_default_options = {"members": True, "inherited-members": "Module,Sequence,Mapping"}
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
# Names that the examples of docstrings use.
doctest_global_setup = """
import numpy as np
from sklearn.datasets import load_digits
images, labels = load_digits(return_X_y=True)
images = images.reshape(-1, 8, 8)[:100]
labels = labels[:100]
"""

# Other projects: inventories are kept here, as a build needs no network.
intersphinx_mapping = write_inventories(
    Path(__file__).parent / "inventories", Path(__file__).parent / "_build" / "inventories"
)

# Gallery
sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("sklearn_ssl",),
    "reference_url": {"sklearn_ssl": None},
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "show_memory": False,
    "capture_repr": (),
    "min_reported_time": 1,
    "abort_on_example_error": True,
}
# Examples that are cut short on a slow machine say so.
warnings.filterwarnings("ignore", message="max_time=.* ended the fit after")

# Pages
html_theme = "pydata_sphinx_theme"
html_title = "sklearn-ssl"
html_static_path = ["_static"]
html_css_files = ["style.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navigation_with_keys": False,
    "header_links_before_dropdown": 8,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "changelog": [], "start": []}
