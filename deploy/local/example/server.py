"""A product's own server, as small as it can be: it holds the API key, and the page does the rest.

    just example      starts the stack, if it is not up, and this beside it

The page gets a grant and uploads with it straight to Safelight; it hears what happens, and sees pictures, through us.
A real product asks at each of these routes who its user is, and whose the batch and the job are.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Any, Final
from uuid import UUID

import httpx
import uvicorn
from fastapi import FastAPI, Header, Response
from fastapi.responses import FileResponse, RedirectResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

from safelight_client import AsyncClient

HERE: Final = Path(__file__).parent
TUS: Final = HERE / "node_modules/tus-js-client/dist/tus.min.js"
HOST, PORT = "127.0.0.1", 8090


def build(url: str, key: str, tus: Path = TUS) -> FastAPI:
    """The server of a product that knows where Safelight is, and a key with `upload` and `read`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        bearer = {"Authorization": f"Bearer {key}"}
        async with (
            AsyncClient(url, key) as app.state.safelight,
            httpx.AsyncClient(base_url=url, headers=bearer, timeout=60) as app.state.raw,
        ):
            yield

    app = FastAPI(lifespan=lifespan)

    @app.post("/session")
    async def begin() -> dict[str, Any]:
        """A batch for this visit, and a grant that uploads into it and nowhere else."""
        safelight: AsyncClient = app.state.safelight
        batch = await safelight.create_batch("Dropped on the example page", style="warm-film")
        grant = await safelight.create_grant(files=200, fields={"batch": str(batch.id)}, lives_s=3600)
        return {"batch": batch.id, "token": grant.token, "endpoint": f"{url}/v1/uploads/tus"}

    @app.get("/batches/{batch}/events")
    async def follow(batch: UUID, last_event_id: Annotated[str | None, Header()] = None) -> Response:
        """Safelight's own stream: the page's EventSource cannot send a key."""
        raw: httpx.AsyncClient = app.state.raw
        known = {"Last-Event-ID": last_event_id} if last_event_id else {}
        answer = await raw.send(raw.build_request("GET", f"/v1/batches/{batch}/events", headers=known), stream=True)

        async def events() -> AsyncIterator[bytes]:
            async with contextlib.aclosing(answer):
                async for piece in answer.aiter_raw():
                    yield piece

        return StreamingResponse(events(), answer.status_code, media_type=answer.headers.get("Content-Type"))

    @app.get("/jobs/{job}/{name}")
    async def picture(job: UUID, name: str) -> RedirectResponse:
        """A link to an artifact, signed a moment ago."""
        safelight: AsyncClient = app.state.safelight
        return RedirectResponse(await safelight.link(job, name), headers={"Cache-Control": "no-store"})

    @app.get("/tus.js")
    async def uploader() -> FileResponse:
        """tus-js-client's build for browsers, as npm brought it."""
        return FileResponse(tus, media_type="text/javascript")

    app.mount("/", StaticFiles(directory=HERE / "page", html=True))
    return app


def main() -> None:
    """Run it against the embedded stack."""
    from stack import control
    from stack.home import Home

    origin = f"http://{HOST}:{PORT}"
    os.environ["SAFELIGHT_CORS_ORIGINS"] = origin  # for the stack, if it is we who start it
    home = Home.here()
    control.up(home)
    known = control.client_environment(home)
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    allowed = httpx.options(f"{known['SAFELIGHT_URL']}/v1/uploads/tus", headers=asked)
    if allowed.headers.get("Access-Control-Allow-Origin") != origin:
        sys.exit("The stack that is up does not know this page: run `just down`, and then this again.")
    if not TUS.exists():
        sys.exit(f"tus-js-client is missing: run `npm install` in {HERE}")
    print(f"The example is at {origin}; Ctrl-C ends it, the stack stays up.")
    app = build(known["SAFELIGHT_URL"], known["SAFELIGHT_API_KEY"])
    uvicorn.run(app, host=HOST, port=PORT, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    main()
