"""Speed against the reference implementations, measured side by side in one run: `make bench`."""
