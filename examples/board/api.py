"""The REST handlers: each checks what was sent, changes the database, says what is to be broadcast, and commits.

Nothing is sent before the commit, and nothing at all when the transaction is rolled back: see ``live.events``. What the lists
of projects and boards show goes to every client by ``broadcast_message``, whichever board it looks at. The rest goes to those
who hear the board or its project.
"""

import checks
from flask import Blueprint, abort, current_app, jsonify, request, session
from live import events
from models import Board, Column, Project, Task, db
from ordering import place
from sqlalchemy import func

from cartows import new_board_updated_message, new_project_created_message, new_project_updated_message

api = Blueprint("api", __name__, url_prefix="/api")

# How many there may be of each: boards that people can still read, and events that stay small.
MOST = {"projects": 50, "boards": 50, "columns": 12, "tasks": 500}


def explain(error):
    """Answer in JSON where the page's script asked; anywhere else as Flask does."""
    return (jsonify(message=error.description), error.code) if request.path.startswith("/api/") else error


def explain_busy(error):
    """Answer that the database had no turn to give in time; the driver's own words stay in the log."""
    current_app.logger.exception("the database did not answer")
    return jsonify(message="The database is busy. Try again in a moment."), 503


def found(model, id, what):
    return db.session.get(model, id) or abort(404, f"This {what} does not exist, or not any more.")


def check_room(model, where, what):
    """Answer 409 when there are as many of them as there may be."""
    if db.session.scalar(db.select(func.count()).select_from(model).where(where)) >= MOST[what]:
        abort(409, f"There can be no more than {MOST[what]} {what} here.")


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
    """Have the board's present state sent, as a version of its own. The lists show its name: those who look elsewhere, too."""
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
    order = checks.body(("order",), order=checks.ids("order", MOST["columns"]))["order"]
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
    # The page makes the id: what it shows before the answer, the answer and the event are one card.
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
    tell_order(column, changed)
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
    """Put a task before another one of a column, or at its end: also when that other one has gone from there meanwhile."""
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
        # Where it stands already, nothing has changed, so nothing is told.
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
        tell_order(column, changed)
    else:
        tell_order(column, [task, *changed])
    db.session.commit()
    return task.to_dict()


def tell_order(column, tasks):
    """Have the new places of these tasks sent, each with its version: an event of one of them may overtake this one.

    By their ids, since cartows puts the changes of several events together key by key where a slow client gets one of them.
    """
    if not tasks:
        return
    column.board.version += 1
    places = {task.id: {"column_id": column.id, "position": task.position, "version": task.version} for task in tasks}
    announce(column.board, places, action="reordered")


@api.delete("/tasks/<task_id>")
def delete_task(task_id):
    task = found(Task, task_id, "task")
    events.broadcast_task_deleted(task.id, task.board_id, project_id=task.board.project_id)
    db.session.delete(task)
    db.session.commit()
    return "", 204


# --- Oneself ------------------------------------------------------------------------------------------------------------------


@api.put("/me")
def rename_me():
    """Keep under which name this browser wants to be shown to others, in its session; an empty one takes the name away."""
    name = checks.body(("name",), name=checks.paragraphs("name", 40))["name"]
    session["name"] = " ".join(name.split())
    session.permanent = True
    return {"name": session["name"]}
