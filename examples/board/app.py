"""A project-planning board that changes in every open browser at once: Flask, Flask-SQLAlchemy and cartows.

Run it from here with ``gunicorn -k gthread --threads 8 app:app`` or ``flask run``, then open two windows.
"""

import os
import secrets
from datetime import timedelta
from pathlib import Path

from api import api, explain, explain_busy
from flask import Flask, redirect, render_template, session, url_for
from live import ws
from models import Board, Project, db, prepare
from sample import add_sample
from sqlalchemy.exc import OperationalError
from werkzeug.exceptions import HTTPException

app = Flask(__name__, instance_path=str(Path(__file__).parent / "instance"))
app.config.update(
    SQLALCHEMY_DATABASE_URI="sqlite:///board.sqlite",  # in the instance folder
    SESSION_COOKIE_SAMESITE="Lax",
    PERMANENT_SESSION_LIFETIME=timedelta(days=365),
    MAX_CONTENT_LENGTH=64 * 1024,
)
# FLASK_SQLALCHEMY_DATABASE_URI=sqlite:////tmp/b.sqlite in the environment overrides that; the same for every setting.
app.config.from_prefixed_env()
app.json.sort_keys = False


def stored_secret(path):
    """Return the key that signs the session cookies, made at the first start; all processes get the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(secrets.token_hex(32))
    try:
        os.link(draft, path)  # Unlike a rename, this does not replace an existing file.
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text()


# from_prefixed_env has turned digits into a number.
app.config["SECRET_KEY"] = str(app.config["SECRET_KEY"] or stored_secret(Path(app.instance_path) / "secret_key"))

db.init_app(app)
ws.init_app(app)
app.register_blueprint(api)
app.register_error_handler(HTTPException, explain)
app.register_error_handler(OperationalError, explain_busy)

with app.app_context():
    prepare(db.engine)
    # One transaction, serialized among all processes that start now: tables and sample are created once.
    with db.session.begin():
        db.metadata.create_all(db.session.connection())
        add_sample()
    db.engine.dispose()  # With gunicorn --preload the workers that are forked next must not share a connection.


@app.get("/")
def first():
    query = db.select(Board.id).join(Board.project).order_by(Project.rank, Board.rank).limit(1)
    board_id = db.session.scalar(query)
    return redirect(url_for("page", board_id=board_id)) if board_id else page("")


@app.get("/boards/<board_id>")
def page(board_id):
    session.permanent = True
    if "me" not in session:
        session["me"] = secrets.token_hex(6)
    # A board that does not exist has the same page, with the list; the page's script shows the error.
    status = 200 if not board_id or db.session.get(Board, board_id) else 404
    path = app.config.get("CARTOWS_PATH", "/ws")
    answer = app.make_response(
        (render_template("board.html", path=path, me=session["me"], name=session.get("name", "")), status)
    )
    # The page depends on the cookie, so no cache may serve it to another user.
    answer.headers["Cache-Control"] = "no-store"
    return answer


@app.after_request
def protect(answer):
    answer.headers["Content-Security-Policy"] = (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
        "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    )
    answer.headers["X-Content-Type-Options"] = "nosniff"
    return answer
