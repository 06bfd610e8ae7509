"""Library notebooks as a reader of the site sees them: without the words that are for nbdev alone."""

import re

import nbformat

DIRECTIVE = re.compile(r"^#\|.*\n?", re.MULTILINE)


def read(text: str) -> nbformat.NotebookNode:
    """The notebook with its directives taken out, and the cells that have nothing else removed."""
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.setdefault("kernelspec", {"name": "python3", "language": "python", "display_name": "Python 3"})
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        directives = DIRECTIVE.findall(cell.source)
        cell.source = DIRECTIVE.sub("", cell.source)
        if not cell.source.strip() or any(line.startswith("#| hide") for line in directives):
            cell.metadata.setdefault("tags", []).append("remove-cell")
    return notebook
