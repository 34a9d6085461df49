"""Tests in a real browser: Debian's Chromium, led by Playwright, before real gunicorn servers. See ``make test-browser``."""
