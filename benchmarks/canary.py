"""False rollbacks of equal canaries and requests until a worse one is found: `python -m benchmarks.canary`.

It calls the functions of the service (`is_failing`, `is_slower`, `is_different`) on the counts of many trials at once.
Requests arrive in steps, after each of which the trial is evaluated; each compared request is one of the canary with a
probability of one half.
"""

import time

import numpy as np

from mlops_nb.monitor.canary import BUCKETS, CanaryLimits, bucket_of, is_different, is_failing, is_slower

LIMITS, N_TESTS = CanaryLimits(), 3


def simulate(trials: int, requests: int, step: int, seed: int, failing=(0.01, 0.01), yes=(0.3, 0.3), ms=(5.0, 5.0)):
    """Return for each trial the requests of the canary when it is rolled back; infinite: it is not."""
    rng = np.random.default_rng(seed)
    buckets = [np.array([bucket_of(t / 1000) for t in m * np.exp(rng.normal(0, 0.5, 20_000))]) for m in ms]
    share = [np.bincount(b, minlength=BUCKETS) / len(b) for b in buckets]
    found = np.full(trials, np.inf)
    failed, answered, answers = (np.zeros((trials, 2), dtype=np.int64) for _ in range(3))
    latency = np.zeros((trials, BUCKETS, 2), dtype=np.int64)
    for n in range(step, requests + 1, step):
        heads = rng.binomial(2 * step, 0.5, trials)
        new = np.stack([2 * step - heads, heads], axis=-1)
        lost = rng.binomial(new, failing)
        failed, answered = failed + lost, answered + new - lost
        answers = answers + rng.binomial(new - lost, yes)
        latency += np.stack([rng.multinomial((new - lost)[:, i], share[i]) for i in range(2)], axis=-1)
        worse = is_failing(failed, failed + answered, N_TESTS, LIMITS)
        worse |= is_different(answers[:, None], answered, N_TESTS, LIMITS)
        worse |= is_slower(latency, N_TESTS, LIMITS)
        worse &= (failed + answered).min(axis=-1) >= LIMITS.min_requests
        found[worse & np.isinf(found)] = n
    return found


def main() -> None:
    """Print Markdown tables of all figures."""
    print("| equal versions | rolled back |\n|---|---|")
    for failing, yes, requests, trials in ((0.01, 0.3, 5000, 2000), (0.05, 0.5, 5000, 1000), (0.01, 0.3, 50_000, 200)):
        found = simulate(trials, requests, 50, 1, (failing, failing), (yes, yes))
        of = f"{failing:.0%} failures, {yes:.0%} yes, up to {requests:,} requests of each"
        print(f"| {of} | {np.isfinite(found).sum()} of {trials:,} |", flush=True)
    print("\n| worse canary | median of its requests | within 1,000 |\n|---|---|---|")
    worse = {
        "yes from 30 to 45 %": {"yes": (0.3, 0.45)},
        "failures from 1 to 5 %": {"failing": (0.01, 0.05)},
        "all requests fail": {"failing": (0.01, 1.0)},
        "three times as slow": {"ms": (5.0, 15.0)},
    }
    for name, change in worse.items():
        found = simulate(500, 3000, 20, 2, **change)
        print(f"| {name} | {np.median(found):,.0f} | {(found <= 1000).mean():.1%} |", flush=True)
    print("\n| within the limits | rolled back by 5,000 requests |\n|---|---|")
    within = {
        "failures from 1 to 1.5 %": {"failing": (0.01, 0.015)},
        "yes from 30 to 35 %": {"yes": (0.3, 0.35)},
        "1.5 times as slow": {"ms": (5.0, 7.5)},
    }
    for name, change in within.items():
        found = simulate(500, 5000, 50, 3, **change)
        print(f"| {name} | {np.isfinite(found).mean():.1%} |", flush=True)


if __name__ == "__main__":
    began = time.perf_counter()
    main()
    print(f"\n{time.perf_counter() - began:.0f} s")
