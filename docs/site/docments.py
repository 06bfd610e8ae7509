"""Parameter lists from docments: the comment behind a parameter describes it, that behind the arrow the result."""

from fastcore.docments import docments


def add_parameters(_app, kind: str, _name: str, thing, _options, lines: list[str]):
    """Append a field for each described parameter of a function, and of a class those of its constructor."""
    if kind not in ("function", "method", "class"):
        return
    try:
        described = docments(thing, full=True)
    except (TypeError, ValueError, AttributeError, OSError):  # built in, or made at runtime
        return
    fields = []
    for parameter, about in described.items():
        if about is None or not about.get("docment"):
            continue
        text = " ".join(about["docment"].split())
        fields.append(f":returns: {text}" if parameter == "return" else f":param {parameter}: {text}")
    if fields:
        lines += ["", *fields]


def setup(app) -> dict:
    """Register with Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.connect("autodoc-process-docstring", add_parameters)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
