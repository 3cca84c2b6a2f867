"""The page about a run in a real browser: `make test-report`."""
