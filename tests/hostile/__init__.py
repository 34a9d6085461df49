"""Clients that mean harm, and what they may cost everybody else: nothing. ``python -m tests.hostile --help``."""
