"""The REST handlers: each checks the request, changes the database, queues its events, and commits.

Events are published after the commit, and not at all when the transaction is rolled back: see ``live.events``. Changes that the
lists of projects and boards show go to every client, by ``broadcast_message``; all others to the subscribers of the board or
its project.
"""

import checks
from flask import Blueprint, abort, current_app, jsonify, request, session
from live import events
from models import Board, Column, Project, Task, db
from ordering import place
from sqlalchemy import func

from cartows import new_board_updated_message, new_project_created_message, new_project_updated_message

api = Blueprint("api", __name__, url_prefix="/api")

# The maximum number of each, which keeps boards readable and events small.
MAX_COUNTS = {"projects": 50, "boards": 50, "columns": 12, "tasks": 500}


def explain(error):
    """Answer requests of the page's script in JSON, all others as Flask does."""
    return (jsonify(message=error.description), error.code) if request.path.startswith("/api/") else error


def explain_busy(error):
    """Answer that the database did not get the write lock in time; the driver's message goes to the log only."""
    current_app.logger.exception("the database did not answer")
    return jsonify(message="The database is busy. Try again in a moment."), 503


def found(model, id, what):
    return db.session.get(model, id) or abort(404, f"This {what} does not exist, or no longer.")


def check_room(model, where, what):
    """Answer 409 when the maximum number of them exists."""
    if db.session.scalar(db.select(func.count()).select_from(model).where(where)) >= MAX_COUNTS[what]:
        abort(409, f"There can be no more than {MAX_COUNTS[what]} {what} here.")


def next_rank(siblings):
    return max((sibling.rank for sibling in siblings), default=-1) + 1


# --- Projects -----------------------------------------------------------------------------------------------------------------


@api.get("/projects")
def list_projects():
    projects = db.session.scalars(db.select(Project).order_by(Project.rank)).all()
    return jsonify([project.to_dict() | {"boards": [board.summary() for board in project.boards]} for project in projects])


@api.post("/projects")
def create_project():
    fields = checks.body(("name",), **checks.NAME)
    check_room(Project, db.true(), "projects")
    project = Project(**fields, rank=next_rank(db.session.scalars(db.select(Project))))
    db.session.add(project)
    db.session.flush()
    events.broadcast_message(new_project_created_message(project.id, project.to_dict()))
    db.session.commit()
    return project.to_dict() | {"boards": []}, 201


@api.patch("/projects/<project_id>")
def rename_project(project_id):
    fields = checks.body(("name",), **checks.NAME)
    project = found(Project, project_id, "project")
    if project.name != fields["name"]:
        project.name = fields["name"]
        project.version += 1
        events.broadcast_message(new_project_updated_message(project.id, fields, project.to_dict()))
    db.session.commit()
    return project.to_dict()


# --- Boards and their columns -------------------------------------------------------------------------------------------------


def announce(board, changes, *, action="updated", to_all=False):
    """Queue an event with the board's current state; ``to_all`` for changes that the lists on other pages show, too."""
    db.session.flush()
    if to_all:
        events.broadcast_message(new_board_updated_message(board.id, board.project_id, changes, board.to_dict(), action=action))
    else:
        events.broadcast_board_updated(board.id, board.project_id, changes, board.to_dict(), action=action)


@api.get("/projects/<project_id>/boards")
def list_boards(project_id):
    return jsonify([board.summary() for board in found(Project, project_id, "project").boards])


@api.post("/projects/<project_id>/boards")
def create_board(project_id):
    fields = checks.body(("name",), **checks.NAME)
    project = found(Project, project_id, "project")
    check_room(Board, Board.project_id == project.id, "boards")
    board = Board(project=project, **fields, rank=next_rank(project.boards))
    board.columns = [Column(name=name, rank=rank) for rank, name in enumerate(("To do", "In progress", "Done"))]
    db.session.add(board)
    announce(board, fields, to_all=True)
    db.session.commit()
    return board.to_dict(), 201


@api.get("/boards/<board_id>")
def read_board(board_id):
    board = found(Board, board_id, "board")
    return {"board": board.to_dict(), "tasks": [task.to_dict() for task in board.tasks]}


@api.patch("/boards/<board_id>")
def rename_board(board_id):
    fields = checks.body(("name",), **checks.NAME)
    board = found(Board, board_id, "board")
    if board.name != fields["name"]:
        board.name = fields["name"]
        board.version += 1
        announce(board, fields, to_all=True)
    db.session.commit()
    return board.to_dict()


@api.put("/boards/<board_id>/columns")
def order_columns(board_id):
    order = checks.body(("order",), order=checks.ids("order", MAX_COUNTS["columns"]))["order"]
    board = found(Board, board_id, "board")
    columns = {column.id: column for column in board.columns}
    if set(order) != set(columns):
        abort(409, "The columns of this board have changed meanwhile. Try again.")
    if order != list(columns):
        for rank, id in enumerate(order):
            columns[id].rank = rank
        board.version += 1
        announce(board, {"columns": order}, action="reordered")
    db.session.commit()
    return board.to_dict()


@api.post("/boards/<board_id>/columns")
def create_column(board_id):
    fields = checks.body(("name",), **checks.NAME)
    board = found(Board, board_id, "board")
    check_room(Column, Column.board_id == board.id, "columns")
    column = Column(board=board, **fields, rank=next_rank(board.columns))
    db.session.add(column)
    board.version += 1
    db.session.flush()
    announce(board, {"column_added": column.to_dict()})
    db.session.commit()
    return board.to_dict() | {"column_id": column.id}, 201


@api.patch("/columns/<column_id>")
def rename_column(column_id):
    fields = checks.body(("name",), **checks.NAME)
    column = found(Column, column_id, "column")
    if column.name != fields["name"]:
        column.name = fields["name"]
        column.board.version += 1
        announce(column.board, {"column_renamed": column.to_dict()})
    db.session.commit()
    return column.board.to_dict()


@api.delete("/columns/<column_id>")
def delete_column(column_id):
    column = found(Column, column_id, "column")
    board = column.board
    if column.tasks:
        abort(409, "There are tasks in this column. Move or delete them first.")
    board.columns.remove(column)
    db.session.delete(column)
    board.version += 1
    announce(board, {"column_deleted": column.id})
    db.session.commit()
    return board.to_dict()


# --- Tasks --------------------------------------------------------------------------------------------------------------------


@api.post("/columns/<column_id>/tasks")
def create_task(column_id):
    # The page makes the id, so that its preview, the answer and the event are the same card.
    fields = checks.body(("title",), id=checks.an_id("id"), **checks.TASK)
    column = found(Column, column_id, "column")
    check_room(Task, Task.board_id == column.board_id, "tasks")
    if "id" in fields and db.session.get(Task, fields["id"]) is not None:
        abort(409, "There is a task with this id already.")
    task = Task(board_id=column.board_id, column_id=column.id, **fields)
    changed = place(task, column.tasks, None)
    db.session.add(task)
    db.session.flush()
    events.broadcast_task_created(task.id, task.board_id, task.to_dict(), project_id=column.board.project_id)
    announce_order(column, changed)
    db.session.commit()
    return task.to_dict(), 201


@api.get("/tasks/<task_id>")
def read_task(task_id):
    return found(Task, task_id, "task").to_dict()


@api.patch("/tasks/<task_id>")
def update_task(task_id):
    fields = checks.body(**checks.TASK)
    task = found(Task, task_id, "task")
    changed = [name for name, value in fields.items() if getattr(task, name) != value]
    if changed:
        for name in changed:
            setattr(task, name, fields[name])
        task.version += 1
        state = task.to_dict()
        changes = {name: state[name] for name in changed}
        events.broadcast_task_updated(task.id, task.board_id, changes, state, project_id=state["project_id"])
    db.session.commit()
    return task.to_dict()


@api.post("/tasks/<task_id>/move")
def move_task(task_id):
    """Move a task before another one of a column, or to its end, also if that other task has left the column meanwhile."""
    wanted = checks.body(
        ("column_id",), column_id=checks.an_id("column_id"), before_id=checks.an_id("before_id", optional=True)
    )
    task = found(Task, task_id, "task")
    column = found(Column, wanted["column_id"], "column")
    if column.board_id != task.board_id:
        abort(409, "A task stays on its board.")
    others = [other for other in column.tasks if other is not task]
    before = next((other for other in others if other.id == wanted.get("before_id")), None)
    moved = column is not task.column
    if not moved:
        # It is there already: nothing has changed, so no event is published.
        after = [other for other in others if (other.position, other.id) > (task.position, task.id)]
        if before is (after[0] if after else None):
            db.session.commit()
            return task.to_dict()
    changed = place(task, others, before)
    task.version += 1
    if moved:
        task.column = column
        db.session.flush()
        state = task.to_dict()
        changes = {"column_id": state["column_id"], "position": state["position"]}
        events.broadcast_task_updated(task.id, task.board_id, changes, state, project_id=state["project_id"], action="moved")
        announce_order(column, changed)
    else:
        announce_order(column, [task, *changed])
    db.session.commit()
    return task.to_dict()


def announce_order(column, tasks):
    """Queue an event with the new positions of these tasks, each with its version: an event of one task may overtake it.

    The keys are the ids of the tasks, since cartows merges the changes of several events key by key for a slow client.
    """
    if not tasks:
        return
    column.board.version += 1
    positions = {task.id: {"column_id": column.id, "position": task.position, "version": task.version} for task in tasks}
    announce(column.board, positions, action="reordered")


@api.delete("/tasks/<task_id>")
def delete_task(task_id):
    task = found(Task, task_id, "task")
    events.broadcast_task_deleted(task.id, task.board_id, project_id=task.board.project_id)
    db.session.delete(task)
    db.session.commit()
    return "", 204


# --- The user -----------------------------------------------------------------------------------------------------------------


@api.put("/me")
def rename_me():
    """Store the name that other users see, in the session; an empty one removes it."""
    name = checks.body(("name",), name=checks.paragraphs("name", 40))["name"]
    session["name"] = " ".join(name.split())
    session.permanent = True
    return {"name": session["name"]}
