"""What the server says when it does not answer: JSON in the format of OpenAI's errors, with a reason."""

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic_core import to_json
from starlette.exceptions import HTTPException
from starlette.responses import Response


STOPPING = "The server is stopping. Send the request to another one."


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status (`int`): The HTTP status.
        reason (`str`): What was found, what is allowed, and what to change.
        headers (`dict[str, str]`, *optional*): Further headers of the response.
    """

    def __init__(self, status: int, reason: str, headers: dict[str, str] | None = None):
        super().__init__(reason)
        self.status, self.reason, self.headers = status, reason, headers


def error_response(refusal: Refusal) -> Response:
    kind = "server_error" if refusal.status >= 500 else "invalid_request_error"
    body = {"error": {"message": refusal.reason, "type": kind, "param": None, "code": refusal.status}}
    return Response(to_json(body), refusal.status, refusal.headers, "application/json")


def add_error_handlers(app: FastAPI) -> None:
    """Makes every error of an app one of ours."""

    @app.exception_handler(Refusal)
    async def refuse(request: Request, error: Refusal) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def refuse_body(request: Request, error: RequestValidationError) -> Response:
        return error_response(_of_body(error.errors()))

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        reason = "The body cannot be read: it must be JSON in UTF-8, without very deep nesting or very long numbers."
        if error.status_code in (404, 405):
            reason = f"There is no {request.method} {request.url.path}; GET /docs lists what there is."
        return error_response(Refusal(error.status_code, reason, error.headers))

    @app.exception_handler(Exception)
    async def report(request: Request, error: Exception) -> Response:
        return error_response(Refusal(500, "The server failed; its log has the reason."))


def _of_body(errors: list[dict]) -> Refusal:
    """Puts the first error of a body into words. Of a field with several types, the error that lies deepest counts."""
    field = errors[0]["loc"][1:2]
    error = max((error for error in errors if error["loc"][1:2] == field), key=lambda error: len(error["loc"]))
    where = "".join(map(str, field))
    if error["type"] == "json_invalid":
        return Refusal(400, f"The body is not JSON: {error['ctx']['error']} at character {where}.")
    if error["type"] in ("model_attributes_type", "missing") and not where:
        return Refusal(
            422,
            'The body must be a JSON object such as {"inputs": "A text"}, sent with Content-Type: application/json.',
        )
    if error["type"] == "extra_forbidden":
        return Refusal(422, f"`{where}` is unknown here; GET /docs lists what each request takes.")
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else f"{error['msg']}."
    return Refusal(422, f"`{where}`: {reason}")
