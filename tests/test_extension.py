"""The extension in its apps: the answers to requests that do not become a connection."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Blueprint, Flask

from cartows import CartoWS, Hub, Options, OptionsError

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


def ask(app: Flask, path: str, **headers: str) -> Any:
    return app.test_client().get(path, headers={**UPGRADE, **headers}, environ_overrides={"SERVER_PROTOCOL": "HTTP/1.1"})


def guarded(name: str) -> Blueprint:
    blueprint = Blueprint(name, __name__)
    blueprint.before_request(lambda: ("who are you?", 401))
    return blueprint


def test_a_server_without_sockets_is_501_with_the_servers_that_have_them() -> None:
    app = Flask(__name__)
    CartoWS(app)
    answer = ask(app, "/ws")
    assert answer.status_code == 501
    assert "gunicorn" in answer.get_json()["message"]


@pytest.mark.parametrize("how", ["plain", "renamed", "nested", "nested and renamed"])
def test_a_blueprints_before_request_guards_its_websocket_however_it_is_registered(how: str) -> None:
    app, blueprint = Flask(__name__), guarded("rt")
    CartoWS(blueprint)
    name = {"name": "other"} if "renamed" in how else {}
    if "nested" in how:
        parent = Blueprint("api", __name__, url_prefix="/api")
        parent.register_blueprint(blueprint, url_prefix="/rt", **name)  # type: ignore[arg-type]
        app.register_blueprint(parent)
    else:
        app.register_blueprint(blueprint, url_prefix="/api/rt", **name)  # type: ignore[arg-type]
    assert ask(app, "/api/rt/ws").status_code == 401


def test_two_routes_in_one_app_need_two_paths() -> None:
    app = Flask(__name__)
    CartoWS(app)
    CartoWS(app, path="/other")
    assert ask(app, "/other").status_code == 501
    with pytest.raises(ValueError, match="path="):
        CartoWS(app, path="/other")


def test_settings_come_from_the_config_on_top_of_the_hubs_own_and_arguments_win() -> None:
    app = Flask(__name__)
    app.config["CARTOWS_PONG_WAIT"] = 90.0
    app.config["CARTOWS_FILTER_KEYS"] = ["team"]
    hub = Hub(options=Options(send_queue_size=7))
    ws = CartoWS(app, hub, ping_period=5)
    options = ws.handler.options
    assert (options.send_queue_size, options.pong_wait, options.ping_period) == (7, 90.0, 5.0)
    assert hub.options.pong_wait == 60.0
    # A filter that some app's clients can hold is one that the hub can broadcast to.
    assert hub.filter_keys == {"project_id", "board_id", "team"}


def test_a_wrong_setting_fails_at_start() -> None:
    app = Flask(__name__)
    app.config["CARTOWS_PING_PERIOD"] = 70
    with pytest.raises(OptionsError, match="CARTOWS_PONG_WAIT"):
        CartoWS(app)


def test_a_malformed_origin_is_refused_without_the_allowed_ones() -> None:
    app = Flask(__name__)
    CartoWS(app, allowed_origins=["https://secret.example"])
    for origin in ("http://[", "https://evil.example"):
        answer = ask(app, "/ws", Origin=origin)
        assert answer.status_code == 403
        assert "secret" not in answer.get_data(as_text=True)


def test_an_extension_without_an_app_has_no_handler() -> None:
    with pytest.raises(RuntimeError, match="init_app"):
        _ = CartoWS().handler


# The script -----------------------------------------------------------------------------------------------------------


def test_the_script_is_served_where_the_path_has_a_converter() -> None:
    app, tenant = Flask(__name__), Blueprint("tenant", __name__, url_prefix="/<tenant>")
    CartoWS(tenant)
    app.register_blueprint(tenant)
    with app.test_client().get("/acme/ws/cartows.js") as answer:
        assert answer.status_code == 200


def test_the_script_is_revalidated_whatever_the_app_sets_for_other_files() -> None:
    app = Flask(__name__)
    app.config["SEND_FILE_MAX_AGE_DEFAULT"] = 31536000
    CartoWS(app)
    with app.test_client().get("/ws/cartows.js") as answer:
        assert "31536000" not in answer.headers["Cache-Control"]
        assert answer.headers["ETag"]


def test_the_script_takes_no_name_from_the_apps_own_routes() -> None:
    app = Flask(__name__)
    app.add_url_rule("/mine", "cartows_script", lambda: "mine")
    CartoWS(app)
    CartoWS(app, path="/other")
    client = app.test_client()
    assert client.get("/mine").text == "mine"
    for path in ("/ws", "/other"):
        with client.get(f"{path}/cartows.js") as answer:
            assert answer.mimetype == "text/javascript"


def test_a_page_learns_by_http_that_the_server_cannot_work() -> None:
    app = Flask(__name__)
    CartoWS(app)
    answer = app.test_client().get("/ws", headers={"X-Cartows-Explain": "1"})
    assert (answer.status_code, answer.get_json()["code"]) == (501, "NO_SOCKET")
    assert answer.headers["Cache-Control"] == "no-store"
