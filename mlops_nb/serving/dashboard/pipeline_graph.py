"""Drawing of the pipeline: where each stage and each arrow stands, wide for a desk and tall for a phone."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from mlops_nb.orchestration.run_stages import Stage
import itertools


class Box(NamedTuple):
    """Rectangle of a stage."""

    stage: Stage
    x: int
    y: int


class Drawing(NamedTuple):
    """A drawing of all stages."""

    layout: str  # "desk" or "phone"
    width: int
    height: int
    box_width: int
    box_height: int
    boxes: list[Box]
    arrows: list[str]  # paths of SVG


WIDTH, HEIGHT, GAP = 176, 96, 26  # of a box, and between two
_COLUMNS = {"serve": 5, "monitor": 3, "retrain": 1}  # below the build, which the loop returns to
_TALL_WIDTH, _TALL_HEIGHT, _TALL_GAP = 320, 74, 18


def draw_wide(stages: Sequence[Stage]) -> Drawing:
    """Return the build from left to right, and the loop back below it."""
    step, second_row = WIDTH + GAP, HEIGHT + 2 * GAP + 2
    boxes = {
        s.name: Box(s, 1 + step * _COLUMNS.get(s.name, i), second_row if s.name in _COLUMNS else 1)
        for i, s in enumerate(stages)
    }
    first = [box for name, box in boxes.items() if name not in _COLUMNS]
    arrows = [f"M{a.x + WIDTH} {a.y + HEIGHT // 2}H{b.x - 2}" for a, b in itertools.pairwise(first)]
    serve, monitor, retrain = (boxes[name] for name in _COLUMNS)
    middle = second_row + HEIGHT // 2
    arrows += [f"M{first[-1].x + WIDTH // 2} {HEIGHT + 1}V{second_row - 2}"]
    arrows += [f"M{serve.x} {middle}H{monitor.x + WIDTH + 2}", f"M{monitor.x} {middle}H{retrain.x + WIDTH + 2}"]
    arrows += [f"M{retrain.x + WIDTH // 2} {second_row}V{HEIGHT + 3}"]
    return Drawing(
        "desk", step * len(first) - GAP + 2, second_row + HEIGHT + 1, WIDTH, HEIGHT, [*boxes.values()], arrows
    )


def draw_tall(stages: Sequence[Stage]) -> Drawing:
    """Return all stages from top to bottom, with an arrow along the right side from the last to `ingest`."""
    step = _TALL_HEIGHT + _TALL_GAP
    boxes = [Box(s, 1, 1 + step * i) for i, s in enumerate(stages)]
    center, right = _TALL_WIDTH // 2, _TALL_WIDTH + 1
    arrows = [f"M{center} {box.y + _TALL_HEIGHT}V{box.y + step - 2}" for box in boxes[:-1]]
    last, ingest = boxes[-1].y + _TALL_HEIGHT // 2, boxes[1].y + _TALL_HEIGHT // 2
    arrows += [f"M{right} {last}h16V{ingest}h-14"]
    height = step * len(boxes) - _TALL_GAP + 2
    return Drawing("phone", _TALL_WIDTH + 22, height, _TALL_WIDTH, _TALL_HEIGHT, boxes, arrows)


class Line(NamedTuple):
    """One line of a chart, of a version."""

    label: str
    points: str  # of a polyline
    dots: list[tuple[float, float, str]]  # x, y and what a pointer shows


class Chart(NamedTuple):
    """A metric over time with its gate."""

    name: str
    lines: list[Line]
    gate_y: float | None
    gate: float | None
    low: float
    high: float
    begin: float  # seconds since 1970
    end: float
    marks: list[tuple[float, str, str]]  # x, kind and what a pointer shows


CHART_WIDTH, CHART_HEIGHT = 600, 160


def draw_metric(metric: Mapping, marks: Sequence[Mapping] = ()) -> Chart | None:
    """Return the chart of a metric and of marks as `monitor.timeseries` has them; None without a label."""
    series = [s for s in metric["series"] if any(v is not None for v in s["values"])]
    if not series:
        return None
    times = [t for s in series for t in s["at"]]
    values = [v for s in series for v in s["values"] if v is not None] + [v for v in [metric["gate"]] if v is not None]
    low, high = min(values), max(values)
    room = max(0.1 * (high - low), 0.02 * max(abs(low), abs(high)), 1e-9)
    low, high, begin, end = low - room, high + room, min(times), max(times)

    def place(t: float, v: float) -> tuple[float, float]:
        x = (t - begin) / (end - begin) if end > begin else 0.5
        return round(4 + x * (CHART_WIDTH - 8), 1), round(CHART_HEIGHT * (high - v) / (high - low), 1)

    lines = []
    for s in series:
        found = [(*place(t, v), f"{v:.4g}") for t, v in zip(s["at"], s["values"], strict=True) if v is not None]
        lines.append(Line(f"version {s['version']}", " ".join(f"{x},{y}" for x, y, _ in found), found))
    gate = metric["gate"]
    shown = [(place(m["at"], low)[0], m["kind"], m["text"]) for m in marks if begin <= m["at"] <= end]
    gate_y = None if gate is None else place(begin, gate)[1]
    return Chart(metric["name"], lines, gate_y, gate, low, high, begin, end, shown)


class Overlay(NamedTuple):
    """Curves of one name of several runs, drawn over each other."""

    name: str
    x: str
    y: str
    lines: list[Line]
    ideal: str  # points of the diagonal; empty without one
    limits: tuple[float, float, float, float]  # x from and to, y from and to


CURVE_WIDTH, CURVE_HEIGHT = 340, 240


def draw_curves(records: Sequence[Mapping]) -> list[Overlay]:
    """Return the curves that runs have, those of one name over each other, and the scores of their folds."""
    by_name: dict[str, list[tuple[int, Mapping]]] = {}
    for i, record in enumerate(records):
        for curve in [*_curves_of(record.get("curves") or {}), *_fold_curve(record)]:
            by_name.setdefault(curve["name"], []).append((i, curve))
    return [_overlay(found) for found in by_name.values()]


_TITLES = {  # kind of a curve to its title, and whether the diagonal is perfect or chance
    "roc": ("ROC", True),
    "precision_recall": ("Precision and recall", False),
    "calibration": ("Calibration", True),
    "fit": ("Calibration", True),
    "errors": ("Errors", False),
}


def _curves_of(tables: Mapping[str, Mapping]) -> Iterator[dict]:
    """Yield the curves of a run's tables, one a class."""
    from mlops_nb.model.curves import read_lines

    for kind, output, x, y, lines in read_lines(tables):
        title, ideal = _TITLES[kind]
        for label, points in lines.items():
            name = f"{title} of {label}" if len(lines) > 1 else title
            yield {
                "name": f"{name}, {output}" if output else name,
                "x": x,
                "y": y,
                "points": points,
                "ideal": ideal,
            }


def _fold_curve(record: Mapping) -> list[dict]:
    scores = [[i, v] for i, v in enumerate(record.get("fold_scores") or [], 1) if v is not None]
    return (
        [{"name": "Scores of the folds", "x": "fold", "y": "score", "points": scores, "ideal": False}] if scores else []
    )


def _overlay(found: Sequence[tuple[int, Mapping]]) -> Overlay:
    """Return the drawing of curves of one name, each with the number of its run."""
    points, first = [p for _, curve in found for p in curve["points"]], found[0][1]
    left, right = min(x for x, _ in points), max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if first["ideal"]:
        low, high = min(left, low), max(right, high)
        left, right = low, high
    elif low == high:
        low, high = low - 0.5, high + 0.5

    def place(x: float, y: float) -> tuple[float, float]:
        across, up = (x - left) / ((right - left) or 1), (y - low) / ((high - low) or 1)
        return round(CURVE_WIDTH * across, 1), round(CURVE_HEIGHT * (1 - up), 1)

    lines = []
    for i, curve in found:
        dots = [(*place(x, y), f"{x:.4g}, {y:.4g}") for x, y in curve["points"]]
        few = dots if len(dots) <= _DOTTED else []
        lines.append(Line(str(i), " ".join(f"{x},{y}" for x, y, _ in dots), few))
    ideal = f"0,{CURVE_HEIGHT} {CURVE_WIDTH},0" if first["ideal"] else ""
    return Overlay(first["name"], first["x"], first["y"], lines, ideal, (left, right, low, high))


_DOTTED = 12  # points of a curve that are drawn as dots at most
