"""The order of tasks in a column: a number for each, in between those of its neighbours."""

STEP = 1024.0

# Halved about thirty times, a step is too small to be halved on; long before floats run out of digits.
LEAST_GAP = 1e-6


def place(task, others, before):
    """Give a task a position among the others, who are in order: before that one, or at the end.

    Returns the others whose positions had to change, too, because there was no room left; their versions have grown.
    """
    index = others.index(before) if before is not None else len(others)
    left = others[index - 1].position if index > 0 else None
    right = before.position if before is not None else None
    if left is None or right is None:
        task.position = (0.0 if right is None else right - STEP) if left is None else left + STEP
        return []
    task.position = (left + right) / 2
    if right - left >= LEAST_GAP:
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
