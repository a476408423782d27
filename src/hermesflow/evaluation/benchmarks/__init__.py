"""Real benchmarks, a module each, found by their files (`evaluation.benchmark`)."""
