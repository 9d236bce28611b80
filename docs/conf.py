"""Sphinx's settings. `make docs` builds docs/_build/html of Markdown pages, some of them made of configs/."""

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from generated import write_pages  # noqa: E402

from tfew.environment.versions import own_version  # noqa: E402

project = "tfew"
author = "The tfew developers"
project_copyright = author
release = own_version()
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"tfew {release}"
html_static_path = ["_static"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
nitpicky = False
linkcheck_ignore = [r"http://127\.0\.0\.1.*", r"https://labels\.example\.org.*"]


def setup(app: Any) -> None:
    app.connect("builder-inited", lambda _: write_pages(Path(app.srcdir) / "reference"))
