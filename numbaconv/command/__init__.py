"""What ``python -m numbaconv`` does: one file for each command."""
