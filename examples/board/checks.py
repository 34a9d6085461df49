"""Checks of the JSON in requests: each returns the final value, or raises a ValueError with a message for the client."""

import re
from datetime import date

from flask import abort, request

LABELS = ("", "red", "amber", "green", "blue", "violet")
ID = re.compile(r"[0-9a-f]{8,32}")


def body(required=(), **checks):
    """Return the checked fields of the request's JSON object. Answers 400 or 415 when one is invalid."""
    try:
        found = request.get_json()
    except RecursionError:
        abort(400, "That JSON is nested too deeply.")
    if not isinstance(found, dict):
        abort(400, "Send a JSON object.")
    for name in required:
        if name not in found:
            abort(400, f"{name} is missing.")
    for name in found:
        if name not in checks:
            abort(400, f"Only {', '.join(checks)} can be sent here.")
    try:
        return {name: checks[name](value) for name, value in found.items()}
    except ValueError as error:
        abort(400, str(error))


def is_text(value):
    """Return whether this can be stored and shown: JSON can hold lone surrogates and control characters."""
    return isinstance(value, str) and not re.search(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]", value)


def line(name, max_length):
    """Return a check for one line of text that is not blank; white space around it is removed."""

    def check(value):
        tidy = " ".join(value.split()) if isinstance(value, str) else ""
        if not tidy or len(tidy) > max_length or not is_text(tidy):
            raise ValueError(f"{name} must be text of 1 to {max_length} characters.")
        return tidy

    return check


def paragraphs(name, max_length):
    """Return a check for text of several lines, which may be empty."""

    def check(value):
        tidy = value.replace("\r\n", "\n").strip() if isinstance(value, str) else None
        if tidy is None or len(tidy) > max_length or not is_text(tidy):
            raise ValueError(f"{name} must be text of at most {max_length} characters.")
        return tidy

    return check


def label(value):
    if not isinstance(value, str) or value not in LABELS:
        raise ValueError(f"label must be empty or one of {', '.join(LABELS[1:])}.")
    return value


def due(value):
    if value is None:
        return None
    if isinstance(value, str) and re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    raise ValueError("due must be a date such as 2026-03-31, or null.")


def an_id(name, optional=False):
    """Return a check for an id, of an object that need not exist; with ``optional`` it may be null."""

    def check(value):
        if value is None and optional:
            return None
        if not isinstance(value, str) or not ID.fullmatch(value):
            raise ValueError(f"{name} must be an id: 8 to 32 digits and letters a to f.")
        return value

    return check


def ids(name, max_count):
    """Return a check for a list of different ids."""

    def check(value):
        each = an_id(name)
        if not isinstance(value, list) or len(value) > max_count or len({each(item) for item in value}) < len(value):
            raise ValueError(f"{name} must be a list of different ids.")
        return value

    return check


TASK = {
    "title": line("title", 200),
    "notes": paragraphs("notes", 4000),
    "label": label,
    "due": due,
}
NAME = {"name": line("name", 80)}
