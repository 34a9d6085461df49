"""The extension in its apps: the answers to requests that do not become a connection."""

from __future__ import annotations

from typing import Any

import pytest
from flask import Blueprint, Flask, url_for
from flask.cli import routes_command
from flask_sock import Sock

from cartows import CartoWS, Hub, Options, OptionsError
from cartows.auth import Authenticator

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


# What other extensions and the app make of the routes --------------------------------------------------------------


def test_every_rule_has_methods() -> None:
    """API documentation, toolbars and site maps walk over the rules, and read the methods of each."""
    app, blueprint = Flask(__name__), Blueprint("rt", __name__, url_prefix="/rt")
    CartoWS(app)
    CartoWS(blueprint)
    app.register_blueprint(blueprint)
    ours = [rule for rule in app.url_map.iter_rules() if "cartows" in rule.endpoint]
    assert len(ours) == 6
    # As they read them: flasgger and spectree, Flask-DebugToolbar, APIFlask.
    assert all(rule.methods is not None and rule.methods.difference({"HEAD", "OPTIONS"}) == {"GET"} for rule in ours)
    assert {", ".join(sorted(rule.methods or ())) for rule in ours} <= {"GET, HEAD", "GET, HEAD, OPTIONS"}
    assert all(app.view_functions[rule.endpoint].__doc__ for rule in ours)
    with app.test_request_context():
        pages = [url_for(rule.endpoint) for rule in ours if "GET" in (rule.methods or ()) and not rule.arguments]
    assert set(pages) == {
        "ws://localhost/ws",
        "/ws/cartows.js",
        "ws://localhost/rt/ws",
        "/rt/ws/cartows.js",
    }


def test_flask_routes_lists_the_route_with_its_method() -> None:
    app = Flask(__name__)
    CartoWS(app)
    lines = [line.split() for line in app.test_cli_runner().invoke(routes_command).output.splitlines()]
    assert ["cartows", "GET", "/ws"] in lines and ["cartows:script", "GET", "/ws/cartows.js"] in lines


@pytest.mark.parametrize("headers", [{}, UPGRADE])
def test_another_method_is_405_with_the_allowed_ones(headers: dict[str, str]) -> None:
    app = Flask(__name__)
    CartoWS(app)
    client = app.test_client()
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        answer = client.open("/ws", method=method, headers=headers)
        assert answer.status_code == 405 and "GET" in answer.headers["Allow"], method
    answer = client.options("/ws")
    assert answer.status_code == 200 and "GET" in answer.headers["Allow"]
    assert client.head("/ws").status_code == 405


def test_the_urls_of_the_route_and_the_script_are_built() -> None:
    app, tenant = Flask(__name__), Blueprint("tenant", __name__, url_prefix="/<tenant>")
    CartoWS(app)
    CartoWS(tenant)
    app.register_blueprint(tenant)
    with app.test_request_context(base_url="https://app.example.com"):
        assert url_for("cartows", board_id=["b1", "b2"]) == "wss://app.example.com/ws?board_id=b1&board_id=b2"
        assert url_for("cartows:script") == "/ws/cartows.js"
        assert url_for("tenant.cartows", tenant="acme") == "wss://app.example.com/acme/ws"
        assert url_for("tenant.cartows:script", tenant="acme") == "/acme/ws/cartows.js"


def test_a_blueprints_subdomain_and_defaults_are_those_of_its_route() -> None:
    app = Flask(__name__, subdomain_matching=True)
    app.config["SERVER_NAME"] = "example.com"
    live = Blueprint("live", __name__, subdomain="live", url_prefix="/<tenant>", url_defaults={"region": "eu"})
    CartoWS(live)
    app.register_blueprint(live)
    client = app.test_client()
    for path, headers, status in (("/acme/ws", UPGRADE, 501), ("/acme/ws/cartows.js", {}, 200)):
        for host, expected in (("live.example.com", status), ("example.com", 404)):
            with client.get(path, base_url=f"http://{host}", headers=headers) as answer:
                assert answer.status_code == expected, (path, host)
    rules = [rule for rule in app.url_map.iter_rules() if "cartows" in rule.endpoint]
    assert all((rule.subdomain, rule.defaults) == ("live", {"region": "eu"}) for rule in rules)


def test_an_app_with_host_matching_names_the_host() -> None:
    def made() -> Flask:
        return Flask(__name__, host_matching=True, static_host="static.example.com")

    app = made()
    CartoWS(app, host="live.example.com")
    CartoWS(app, host="<tenant>.example.com", path="/tenant")
    client = app.test_client()
    for host, status in (("live.example.com", 501), ("example.com", 404)):
        assert client.get("/ws", base_url=f"http://{host}", headers=UPGRADE).status_code == status, host
    assert client.get("/tenant", base_url="http://acme.example.com", headers=UPGRADE).status_code == 501
    with client.get("/ws/cartows.js", base_url="http://live.example.com") as answer:
        assert answer.status_code == 200
    with pytest.raises(OptionsError, match="CARTOWS_HOST=None"):
        CartoWS(made())
    with pytest.raises(OptionsError, match="host_matching"):
        CartoWS(Flask(__name__), host="live.example.com")


# Mistakes ----------------------------------------------------------------------------------------------------------


def test_a_second_route_at_the_same_path_is_refused_and_leaves_nothing_behind() -> None:
    app = Flask(__name__)
    ws = CartoWS(app)
    for again in (lambda: CartoWS(app), lambda: CartoWS(app, ws.hub), lambda: ws.init_app(app)):
        with pytest.raises(ValueError, match="path="):
            again()
    assert app.extensions["cartows"] is ws and len(list(app.url_map.iter_rules())) == 4
    blueprint = Blueprint("rt", __name__)
    CartoWS(blueprint)
    with pytest.raises(ValueError, match="path="):
        app.register_blueprint(blueprint)


def test_a_route_of_flask_socks_at_the_same_path_is_in_the_way() -> None:
    app = Flask(__name__)
    Sock(app).route("/ws")(lambda ws: None)
    with pytest.raises(ValueError, match="already"):
        CartoWS(app)


def test_arguments_of_another_kind_are_refused_at_once() -> None:
    app, hub = Flask(__name__), Hub()
    for call, words in (
        (lambda: CartoWS(hub, app), "the app comes first"),  # type: ignore[call-overload,arg-type]
        (lambda: CartoWS("app"), "Flask app"),  # type: ignore[arg-type]
        (lambda: CartoWS(app, app), "cartows.Hub"),  # type: ignore[arg-type]
        (lambda: CartoWS(app, client_class=hub), "client_class"),  # type: ignore[arg-type]
        (lambda: CartoWS().init_app(hub), "the app comes first"),  # type: ignore[arg-type]
        (lambda: CartoWS().on(1)(print), "type of the messages"),  # type: ignore[arg-type]
        (lambda: hub.broadcast(1), "type of an event"),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=words):
            call()
    assert len(list(app.url_map.iter_rules())) == 1


def test_a_misspelt_option_is_refused_before_there_is_an_app() -> None:
    with pytest.raises(OptionsError, match="ping_period"):
        CartoWS(pign_period=5)  # type: ignore[call-arg]


def test_what_cannot_decide_is_not_taken_for_authenticate_or_authorize() -> None:
    ws = CartoWS(Flask(__name__))
    wrong_for_authenticate: list[Any] = [None, "ann", Authenticator]
    wrong_for_authorize: list[Any] = [None, True]
    for wrong in wrong_for_authenticate:
        with pytest.raises(TypeError, match=r"ws\.authenticate takes"):
            ws.authenticate(wrong)
    for wrong in wrong_for_authorize:
        with pytest.raises(TypeError, match=r"ws\.authorize takes"):
            ws.authorize(wrong)
