"""The ids of requests, and the keys under which they are in the prediction log."""

import random
import time


def make_id() -> str:
    """An id that nobody else has and that sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(64):016x}"  # each process has a seed of its own
