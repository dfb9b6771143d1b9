"""A server's refusals as the engine in this process would have told them."""

from __future__ import annotations

from sam2_ros.remote import protocol
from sam2_ros.remote.connection import NoAnswer, ServerRefusal
from sam2_ros.tracking.types import AddRequest, PromptCode, PromptError, PromptResult


def as_result(error: Exception, request: AddRequest) -> PromptResult:
    """The answer to a prompt that was not applied, or not for certain.

    Raises:
        RuntimeError: a fault in the engine, which is raised as it is in this process.
    """
    if isinstance(error, ServerRefusal) and error.code == protocol.FAILED:
        raise as_exception(error) from error
    code, message = PromptCode.FAILED, str(error)
    if isinstance(error, ServerRefusal) and error.code in (protocol.MALFORMED, protocol.TOO_LARGE):
        code = PromptCode.INVALID_PROMPT
    if isinstance(error, NoAnswer):
        message += "; whether it was applied will show"
    return PromptResult(code, message, request.object_id or 0, request.name)


def as_exception(error: ServerRefusal) -> Exception:
    """What the engine raised in the server, as it raises it in this process."""
    if error.code == protocol.PROMPT:
        return PromptError(PromptCode(int(error.header.get("prompt_code", PromptCode.FAILED))), str(error))
    if error.code in (protocol.INVALID, protocol.MALFORMED, protocol.TOO_LARGE):
        return ValueError(str(error))
    return RuntimeError(str(error))
