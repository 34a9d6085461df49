"""Real-time events for a Flask application: a hub, its clients and their messages, over WebSocket.

The four main parts mirror the Go package that cartows follows: ``hub``, ``client``, ``handler`` and ``message``.
"""

from .auth.base import Authenticator, Credentials
from .broadcaster import PublishResult
from .client.client import Client
from .errors import AuthError, CartowsError, HubClosed, MessageError, OptionsError, PublisherClosed, PublishRejected
from .extension import CartoWS
from .handler.handler import Handler
from .hub.hub import Hub
from .message import (
    BoardEvent,
    ErrorEvent,
    Message,
    MessageType,
    ProjectEvent,
    TaskEvent,
    new_board_updated_message,
    new_error_message,
    new_message,
    new_project_created_message,
    new_project_updated_message,
    new_task_created_message,
    new_task_deleted_message,
    new_task_updated_message,
)
from .options import Options
from .publisher import Publisher

__all__ = [
    "AuthError",
    "Authenticator",
    "BoardEvent",
    "CartoWS",
    "CartowsError",
    "Client",
    "Credentials",
    "ErrorEvent",
    "Handler",
    "Hub",
    "HubClosed",
    "Message",
    "MessageError",
    "MessageType",
    "Options",
    "OptionsError",
    "ProjectEvent",
    "PublishRejected",
    "PublishResult",
    "Publisher",
    "PublisherClosed",
    "TaskEvent",
    "new_board_updated_message",
    "new_error_message",
    "new_message",
    "new_project_created_message",
    "new_project_updated_message",
    "new_task_created_message",
    "new_task_deleted_message",
    "new_task_updated_message",
]
