"""Readers for the tasks of NAS-Bench-360 from their official files."""
