"""What a type checker makes of an app: every line that is wrong is marked, and a mark that is not needed is an error itself.

Checked by ``make lint`` and ``tests/test_typing.py``; it is not run.
"""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Flask, Request

from cartows import CartoWS, Client, Credentials, Hub, Message
from cartows.auth import JWTAuth


class ChatClient(Client):
    """A client class of the app's own."""


app = Flask(__name__)
hub = Hub()
ws = CartoWS(app, hub, ping_period=25, filter_keys=["team"], allowed_origins=["https://app.example.com"], write_buffer=None)
own: CartoWS = CartoWS(Blueprint("live", __name__), client_class=ChatClient, greeting=False)

CartoWS(hub, app)  # type: ignore[arg-type]
CartoWS(app, hub, pign_period=25)  # type: ignore[call-arg]
CartoWS(app, hub, ping_period="25")  # type: ignore[arg-type]
CartoWS(app, hub, slow_consumer="drop")  # type: ignore[arg-type]
CartoWS(app, client_class=Hub)  # type: ignore[arg-type]
hub.broadcast(1)  # type: ignore[arg-type]

# Functions of the app ---------------------------------------------------------------------------------------------


@ws.on("chat.say")
def say(client: Client, message: Message) -> dict[str, Any]:
    return {"said": message.data}


@ws.on("chat.whisper")
async def whisper(client: ChatClient, message: Message) -> None: ...


# The function is what it was.
_: dict[str, Any] = say(next(iter(hub.get_clients())), Message(type="chat.say"))


@ws.on("chat.alone")  # type: ignore[arg-type]
def no_message(client: Client) -> None: ...


@ws.on("chat.swapped")  # type: ignore[arg-type,type-var]
def swapped(message: Message, client: Client) -> None: ...


@ws.on(1)  # type: ignore[arg-type]
def no_type(client: Client, message: Message) -> None: ...


@ws.on_connect
def connected(client: Client) -> bool:
    return client.identity is not None


@ws.on_connect
async def connected_later(client: ChatClient) -> int | None:
    return 4403


@ws.on_connect  # type: ignore[type-var]
def connected_with_words(client: Client) -> str:
    return "refused"


@ws.on_connect  # type: ignore[arg-type]
def connected_with_two(client: Client, message: Message) -> None: ...


@ws.on_disconnect
def disconnected(client: Client) -> None: ...


@ws.on_disconnect  # type: ignore[arg-type]
def disconnected_without_client() -> None: ...


@ws.on_disconnect  # type: ignore[type-var]
def disconnected_with_a_name(client: str) -> None: ...


@ws.authenticate
def user(request: Request) -> str | Credentials | None:
    return request.headers.get("X-User")


auth: JWTAuth = ws.authenticate(JWTAuth("a secret that is long enough for its hash"))


@ws.authenticate  # type: ignore[arg-type]
def user_without_request() -> str | None:
    return None


@ws.authorize
def allowed(identity: str, key: str | None, value: str | None) -> bool:
    return key == "board_id"


@ws.authorize  # type: ignore[arg-type]
def allowed_without_everything(identity: str, key: str, value: str) -> bool:
    return key == "board_id"


@ws.authorize  # type: ignore[type-var]
def allowed_without_answer(identity: str, key: str | None, value: str | None) -> None: ...


@ws.project_of_board
def project(board_id: str) -> int | None:
    return None
