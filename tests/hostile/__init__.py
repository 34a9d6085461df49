"""Hostile clients, and well-behaved ones that must not notice them. ``python -m tests.hostile --help``."""
