"""What a server's refusals are here: results of prompts, or what an engine in this process would raise."""

from __future__ import annotations

from sam2_ros.remote import protocol
from sam2_ros.remote.connection import NoAnswer, ServerRefusal
from sam2_ros.tracking.types import PromptCode, PromptError, PromptRequest, PromptResult


def as_result(error: Exception, request: PromptRequest) -> PromptResult:
    """The result of a prompt that was not applied, or may not have been.

    Raises:
        RuntimeError: a fault in the engine, as in this process.
    """
    cause, message = as_exception(error), str(error)
    code = cause.code if isinstance(cause, PromptError) else PromptCode.FAILED
    if isinstance(error, ServerRefusal):
        if error.code == protocol.FAILED:
            raise cause from error
        if error.code in (protocol.MALFORMED, protocol.TOO_LARGE):
            code = PromptCode.INVALID_PROMPT
    if isinstance(error, NoAnswer):
        message += "; the next frames show whether it was applied"
    return PromptResult(code, message, request.object_id or 0, request.name)


def as_exception(error: Exception) -> Exception:
    """What an engine in this process would raise."""
    if not isinstance(error, ServerRefusal):
        return PromptError(PromptCode.FAILED, str(error))
    if error.code == protocol.PROMPT:
        code = error.header.get("prompt_code")
        return PromptError(PromptCode(code) if code in list(PromptCode) else PromptCode.FAILED, str(error))
    if error.code in (protocol.INVALID, protocol.MALFORMED, protocol.TOO_LARGE):
        return ValueError(str(error))
    return RuntimeError(str(error))
