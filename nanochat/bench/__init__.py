"""The A/B engine: suites, tuning, statistics, run store, report."""
