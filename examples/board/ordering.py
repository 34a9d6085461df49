"""The order of tasks in a column: each has a number between those of its neighbours."""

STEP = 1024.0

# A step is halved about thirty times before the column is renumbered, long before floats run out of digits.
MIN_GAP = 1e-6


def place(task, others, before):
    """Set a task's position among the others, which are in order: before one of them, or at the end.

    Return the others that were renumbered because there was no room left; their versions have grown.
    """
    index = others.index(before) if before is not None else len(others)
    left = others[index - 1].position if index > 0 else None
    right = before.position if before is not None else None
    if left is None or right is None:
        task.position = (0.0 if right is None else right - STEP) if left is None else left + STEP
        return []
    task.position = (left + right) / 2
    if right - left >= MIN_GAP:
        return []
    changed = []
    for number, other in enumerate([*others[:index], task, *others[index:]], 1):
        if other is task:
            other.position = number * STEP
        elif other.position != number * STEP:
            other.position = number * STEP
            other.version += 1
            changed.append(other)
    return changed
