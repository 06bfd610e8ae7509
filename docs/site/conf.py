"""The documentation site: `make site` builds it from the repository alone, offline.

The source is the repository itself, so that a link between a page, a notebook and the README is the same in an editor,
on GitHub and on the site.
"""

import sys
from configparser import ConfigParser
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(ROOT)]  # this folder's extensions, and the table of commands

settings = ConfigParser(delimiters=["="])
settings.read(ROOT / "settings.ini", encoding="utf-8")
settings = settings["DEFAULT"]

project = settings["lib_name"]
author = settings["author"]
copyright = settings["copyright"]
release = version = settings["version"]

extensions = [
    "docments",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "myst_nb",
    "sphinx_copybutton",
    "sphinx_design",
]
root_doc = "docs/index"
include_patterns = ["docs/**.md", "docs/**.rst", "docs/gallery/**.ipynb", "nbs/**.ipynb", "*.md"]
exclude_patterns = ["docs/site/**", "README.md", "**/.ipynb_checkpoints/**"]
templates_path = [str(HERE / "templates")]

# Names of Python in docstrings stand between single backticks
default_role = "code"
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
# what scikit-learn gives every estimator
REQUESTS = ("fit", "predict", "predict_proba", "score", "transform", "inverse_transform")
autodoc_default_options = {"exclude-members": ", ".join(f"set_{method}_request" for method in REQUESTS)}

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4
myst_url_schemes = ["http", "https", "mailto"]
nb_custom_formats = {".ipynb": "notebooks.read"}
nb_execution_mode = "cache"  # a notebook that has not changed is not executed again
nb_execution_cache_path = str(ROOT / "build" / "notebooks")
nb_execution_excludepatterns = ["docs/gallery/*/*", "nbs/pipeline/*", "nbs/examples/network.ipynb"]
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True

html_theme = "pydata_sphinx_theme"
html_title = project
html_additional_pages = {"index": "redirect.html"}
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "navigation_depth": 3,
    "show_prev_next": True,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
copybutton_prompt_text = r"\$ "
