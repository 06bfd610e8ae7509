"""GET /docs: a page to try the service, which loads nothing from another host."""

from functools import partial
from pathlib import Path

from flask import Blueprint

from mlops_nb.serving.http.static import send_static

routes = Blueprint("docs", __name__, url_prefix="/docs")

_STATIC = Path(__file__).parent / "static"
_FILES = {"": ("docs.html", "text/html"), "/style.css": ("docs.css", "text/css")}
_FILES |= {"/script.js": ("docs.js", "text/javascript")}
for _path, (_name, _type) in _FILES.items():
    routes.add_url_rule(_path, _name.replace(".", "_"), partial(send_static, _STATIC / _name, _type))
