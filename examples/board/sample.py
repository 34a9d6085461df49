"""The sample data at the first start: two projects."""

from datetime import date, timedelta

from models import Board, Column, Project, Task, db
from ordering import STEP

# Per project its boards, per board its columns, per column its tasks: title, label, due in so many days, notes.
SAMPLE = {
    "Website relaunch": {
        "Content": {
            "To do": [
                (
                    "Write the page about opening hours",
                    "",
                    9,
                    "Holidays have their own hours: ask the front desk for the list.",
                ),
                ("Collect photographs of the reading room", "blue", None, ""),
                ("Decide which news items move to the archive", "", None, "Everything older than two years, or by topic?"),
                ("Plain-language version of the house rules", "violet", 21, ""),
            ],
            "In progress": [
                ("Rewrite the start page", "red", 2, "One sentence about what we are, then search, then today's dates."),
                ("Check the contact details of all departments", "amber", 5, ""),
            ],
            "Review": [("Glossary of the catalogue's terms", "violet", None, "Waiting for the cataloguing team's comments.")],
            "Done": [
                ("List all pages of the old site", "green", None, ""),
                ("Agree on tone and form of address", "", None, ""),
            ],
        },
        "Launch": {
            "Before": [
                ("Redirects from the old addresses", "red", 12, "The ten most visited pages first."),
                ("Try the search with a screen reader", "blue", None, ""),
                ("Lower the DNS time-to-live", "", 13, ""),
            ],
            "On the day": [("Switch over at 7 in the morning", "amber", 14, ""), ("Watch the error log", "", 14, "")],
            "After": [("Thank all helpers", "green", None, "")],
        },
    },
    "Office move": {
        "Move": {
            "To do": [
                ("Measure the new meeting room", "", 3, ""),
                ("Order twelve desk lamps", "blue", 7, "Warm white, with a clamp."),
                ("Label the archive boxes", "", None, ""),
            ],
            "In progress": [("Compare offers of three removal firms", "amber", 4, "")],
            "Done": [("Give notice for the old parking spaces", "green", None, "")],
        },
    },
}


def add_sample():
    """Add the sample to an empty database, in a transaction that holds the write lock."""
    if db.session.scalar(db.select(Project.id).limit(1)) is not None:
        return
    for number, (name, boards) in enumerate(SAMPLE.items()):
        project = Project(name=name, rank=number)
        db.session.add(project)
        for rank, (board_name, columns) in enumerate(boards.items()):
            board = Board(project=project, name=board_name, rank=rank)
            db.session.add(board)
            for place, (column_name, tasks) in enumerate(columns.items()):
                column = Column(board=board, name=column_name, rank=place)
                db.session.add(column)
                for position, (title, label, days, notes) in enumerate(tasks, 1):
                    due = None if days is None else date.today() + timedelta(days)
                    task = Task(title=title, label=label, due=due, notes=notes, position=position * STEP)
                    task.board, task.column = board, column
                    db.session.add(task)
