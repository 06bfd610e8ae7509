"""The start of the command line, against its limit and against Python doing nothing."""

from benchmarks.measure import ROOT, median, seconds

LIMIT = 0.3  # seconds


def measure(rounds: int = 9) -> list[dict]:
    seconds(["mlops-nb", "--help"], ROOT)
    help_, nothing = [], []
    for _ in range(rounds):
        help_ += seconds(["mlops-nb", "--help"], ROOT)
        nothing += seconds(["python", "-c", "pass"], ROOT)
    value = median(help_)
    return [
        {"what": "mlops-nb --help", "value": value, "unit": "s", "against": f"limit {LIMIT} s", "ratio": value / LIMIT},
        {"what": "python -c pass", "value": median(nothing), "unit": "s", "against": "itself", "ratio": 1.0},
    ]
