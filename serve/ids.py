"""The ids of requests."""

import os
import time


def make_id() -> str:
    """An id that nobody else has and that sorts by time."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(8).hex()}"
