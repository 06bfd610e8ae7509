"""The reference and window distributions of a column, side by side as rectangles of an SVG."""

from itertools import pairwise

from mlops_nb.display import format_number

WIDTH, HEIGHT = 300, 80  # units of the SVG


def draw(histogram) -> dict | None:
    """Return a histogram of the monitor as bars with labels; None where there is nothing to draw."""
    try:
        counts = {kind: [float(n) for n in histogram[kind]] for kind in ("reference", "window")}
    except (TypeError, KeyError, ValueError):
        return None
    n = len(counts["reference"])
    if not n or len(counts["window"]) != n:
        return None
    shares = {kind: [c / (sum(values) or 1) for c in values] for kind, values in counts.items()}
    largest = max(map(max, shares.values())) or 1
    names, step, bars = _names(histogram, n), WIDTH / n, []
    for i in range(n):
        for kind, shift in (("reference", 0.08), ("window", 0.5)):
            share = shares[kind][i]
            height = max(HEIGHT * share / largest, 0.5)
            place = {"x": round((i + shift) * step, 2), "y": round(HEIGHT - height, 2)}
            size = {"width": round(0.42 * step, 2), "height": round(height, 2)}
            bars.append({**place, **size, "kind": kind, "title": f"{names[i]}: {share:.1%} {_WHEN[kind]}"})
    return {"bars": bars, "width": WIDTH, "height": HEIGHT, **_ends(histogram, names)}


def _ends(histogram: dict, names: list[str]) -> dict[str, str]:
    """Return the labels below the first and the last bar."""
    first, last = names[0], names[-1]
    if " to " in first + last and len(histogram.get("edges") or ()) == len(names) + 1:
        first, last = first.partition(" to ")[0], last.rpartition(" to ")[2]
    return {"first": first, "last": last}


_WHEN = {"reference": "in the reference", "window": "in the window"}


def _names(histogram: dict, n: int) -> list[str]:
    """Return the label or range of each bar; the outer ranges may be open."""
    labels, edges = histogram.get("labels"), histogram.get("edges")
    if isinstance(labels, list) and len(labels) == n:
        return [str(label) for label in labels]
    if not isinstance(edges, list) or len(edges) not in (n - 1, n + 1):
        return [str(i + 1) for i in range(n)]
    texts = [format_number(edge) if isinstance(edge, int | float) else str(edge) for edge in edges]
    if len(edges) == n + 1:
        return [f"{low} to {high}" for low, high in pairwise(texts)]
    if not texts:
        return ["all"]
    inner = [f"{low} to {high}" for low, high in pairwise(texts)]
    return [f"below {texts[0]}", *inner, f"{texts[-1]} and above"]
