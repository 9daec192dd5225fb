"""Benchmarks of every operation, run by ``pytest benchmarks --provider NAME``; see README.md beside this file."""
