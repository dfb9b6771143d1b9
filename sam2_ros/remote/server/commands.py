"""The requests that a stream carries out on its engine, beside frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sam2_ros.inference.backend import Backend
from sam2_ros.inference.recovery import restore_objects
from sam2_ros.remote import protocol
from sam2_ros.remote.codec import from_wire, to_wire
from sam2_ros.remote.protocol import Header, ProtocolError
from sam2_ros.tracking.config import TrackerConfig
from sam2_ros.tracking.prompt_checks import MAX_PROMPTS, check_count
from sam2_ros.tracking.types import PromptRequest


def run_command(backend: Backend, header: Header) -> Header:
    """Runs a command; the answer carries the objects as they are afterwards, and what changed."""
    op = protocol.text(header, "op")
    if op not in _COMMANDS:
        raise ProtocolError(f"op is {op[:40]!r}; accepted: {', '.join(OPERATIONS)}")
    result = _COMMANDS[op](backend, header)
    changes = backend.take_changes()
    return {"result": to_wire(result), "changes": to_wire(changes), "objects": to_wire(backend.objects())}


def stamp_of(header: Header) -> int:
    return protocol.integer(header, "stamp", -(1 << 63), (1 << 63) - 1)


def _object_id(header: Header) -> int:
    return protocol.integer(header, "object_id", 0, (1 << 63) - 1)


def _requests(header: Header) -> list[PromptRequest]:
    requests = header.get("requests")
    check_count("requests", len(requests) if isinstance(requests, list) else 0, MAX_PROMPTS)
    return from_wire(list[PromptRequest], requests)


def _rename(backend: Backend, header: Header) -> None:
    name, label = protocol.text(header, "name", 4096), protocol.text(header, "label", 4096)
    score = from_wire(float, header["label_score"]) if "label_score" in header else None
    backend.rename(_object_id(header), name, label, score)


def _set_next_id(backend: Backend, header: Header) -> None:
    backend.next_id = protocol.integer(header, "next_id", 1, (1 << 63) - 1)


_COMMANDS: dict[str, Callable[[Backend, Header], Any]] = {
    "add": lambda backend, header: backend.add(_requests(header), stamp_of(header)),
    "refine": lambda backend, header: backend.refine(from_wire(PromptRequest, header.get("request")), stamp_of(header)),
    "remove": lambda backend, header: backend.remove(_object_id(header)),
    "rename": _rename,
    "reset": lambda backend, header: backend.reset(),
    "objects": lambda backend, header: None,  # every answer carries them
    "next_id": _set_next_id,
    "configure": lambda backend, header: backend.configure(from_wire(TrackerConfig, header["tracker"])),
    "restore": lambda backend, header: restore_objects(backend, _requests(header)),
}
OPERATIONS = ("hello", "ping", "bye", "step", "pixels", *_COMMANDS)
