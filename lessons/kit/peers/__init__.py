"""The reference implementations behind this course's types: what lessons, tests and
benchmarks compare with."""
