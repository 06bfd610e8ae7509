"""The ids of requests, which are also their keys in the prediction log."""

import random
import time


def make_id() -> str:
    """Return a unique id that sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(64):016x}"  # each process seeds its own generator
