"""The page's server: on this machine's loopback alone, for who has its key; it takes decisions from its own pages alone."""

import math
import secrets
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any
from urllib.parse import parse_qs, urlencode

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from meddiff.browsing.pairs import PICTURES, SHOWS, PairView, find_pair, list_pairs, pair_picture
from meddiff.browsing.pictures import FINAL, INVENTED, PREDICTED, REFERENCE, css
from meddiff.browsing.predictions import find_predicted, list_predicted, predicted_picture
from meddiff.cases import CLASS_COLOURS
from meddiff.environment import require_port
from meddiff.errors import MeddiffError
from meddiff.evaluation.arms import arm_name
from meddiff.layout import Layout
from meddiff.outputs.reviews import ACCEPT, REJECT, ReviewRow, decide_pair, put_review
from meddiff.pages import render

_HOST = "127.0.0.1"
_PAGE = 60  # pairs at once
# What is shown is made of patients' images: nothing of it is kept, framed or loaded by other pages.
_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin"}
_POLICY = ("default-src 'none'; img-src 'self'; style-src 'unsafe-inline'; script-src 'nonce-{nonce}'; form-action 'self'; "
           "frame-ancestors 'none'; base-uri 'none'")


def bind(port: int) -> socket.socket:
    """A socket on the loopback.

    Args:
        port: 0 for any free one.

    Raises:
        MeddiffError: another program has it.
    """
    if port:
        require_port(port, "--port")
    return socket.create_server((_HOST, port))


def serve_page(app: Starlette, place: socket.socket) -> None:
    """Answer until the process is interrupted."""
    with suppress(KeyboardInterrupt):
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off")).run(sockets=[place])


def browse_app(layout: Layout, classes: Sequence[str], person: str, key: str) -> Starlette:
    """The application.

    Args:
        layout: the project.
        classes: names of the classes of lesions.
        person: whose decisions they are.
        key: without it nothing is shown: others who work on this machine reach its loopback, too.
    """
    pages = _Pages(layout, classes, person)
    routes = [Route("/", lambda request: RedirectResponse("/pairs")), Route("/pairs", pages.pairs), Route("/pair", pages.pair),
              Route("/pair.png", pages.pair_png), Route("/decide", pages.decide, methods=["POST"]),
              Route("/tests", pages.tests), Route("/test", pages.test), Route("/test.png", pages.test_png)]
    guard = partial(_guard, key=key)
    return Starlette(routes=routes, exception_handlers={MeddiffError: _fault},
                     middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=[_HOST, "localhost"]),
                                 Middleware(BaseHTTPMiddleware, dispatch=guard)])


async def _guard(request: Request, answer: Callable[[Request], Awaitable[Response]], key: str) -> Response:
    """Turn away who lacks the key, and what the page of another site sends. The key of the address becomes a cookie."""
    cookie = f"meddiff-{request.url.port}"
    if secrets.compare_digest(request.query_params.get("key", "").encode(), key.encode()):
        response: Response = RedirectResponse("/pairs", 303)
        response.set_cookie(cookie, key, httponly=True, samesite="lax")
    elif not secrets.compare_digest(request.cookies.get(cookie, "").encode(), key.encode()):
        response = _html("browsing/fault.html.j2", 403, fault="Open the address that meddiff browse shows in its terminal.")
    elif request.method == "POST" and request.headers.get("origin") != f"http://{request.headers['host']}":
        response = _html("browsing/fault.html.j2", 403, fault="Decisions are taken from this page alone.")
    else:
        response = await answer(request)
    response.headers.update(_HEADERS)
    return response


def _html(template: str, status: int = 200, **values: Any) -> Response:
    nonce = secrets.token_urlsafe(16)
    return Response(render(template, nonce=nonce, **values), status, {"Content-Security-Policy": _POLICY.format(nonce=nonce)},
                    "text/html")


def _fault(request: Request, fault: Exception) -> Response:
    return _html("browsing/fault.html.j2", 404, fault=str(fault))


def _png(content: bytes) -> Response:
    return Response(content, media_type="image/png")


class _Pages:
    """What each address shows; everything is read from the project's files when it is asked for."""

    def __init__(self, layout: Layout, classes: Sequence[str], person: str) -> None:
        self.layout, self.classes, self.person = layout, classes, person
        self.earlier: dict[str, ReviewRow | None] = {}  # what a decision of this session took the place of

    def pairs(self, request: Request) -> Response:
        """A sheet of pairs."""
        show, pairs = _show(request), list_pairs(self.layout)
        chosen, page = [pair for pair in pairs if SHOWS[show][1](pair)], _number(request, "page")
        pages = max(1, math.ceil(len(chosen) / _PAGE))
        page = min(max(page, 1), pages)
        return self._html("pairs", pairs=chosen[(page - 1) * _PAGE:page * _PAGE], show=show, page=page, pages=pages,
                          **self._counts(pairs))

    def pair(self, request: Request) -> Response:
        """One pair with its pictures, and what can be decided."""
        show, id, pairs = _show(request), request.query_params.get("id", ""), list_pairs(self.layout)
        pair, chosen = find_pair(pairs, id), _ids(pairs, show, id)
        at, done = chosen.index(id), request.query_params.get("done", "")
        undo = next((each for each in pairs if each.id == (done or id) and each.review), None)
        pictures = [kind for kind in PICTURES if getattr(pair, kind, "there")]
        return self._html("pair", pair=pair, show=show, at=at + 1, total=len(chosen), before=chosen[at - 1] if at else "",
                          after=chosen[at + 1] if at + 1 < len(chosen) else "", undo=undo, pictures=pictures,
                          **self._counts(pairs))

    def pair_png(self, request: Request) -> Response:
        """One picture of a pair."""
        pair = find_pair(list_pairs(self.layout), request.query_params.get("id", ""))
        return _png(pair_picture(self.layout, pair, request.query_params.get("of", "image"), len(self.classes)))

    async def decide(self, request: Request) -> Response:
        """Keep or take back a decision, and go on to the next pair, or back to that one."""
        form = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        return await run_in_threadpool(self._decide, form.get("id", ""), form.get("decision", ""), form.get("show", "all"))

    def _decide(self, id: str, decision: str, show: str) -> Response:
        pairs = list_pairs(self.layout)
        pair = find_pair(pairs, id)
        if decision == "undo":
            put_review(self.layout, id, self.earlier.pop(id, None))
            return _to(id=id, show=show)
        if decision not in (ACCEPT, REJECT) or (decision == ACCEPT and pair.barred):
            raise MeddiffError(id, pair.barred or "a decision is accept or reject", "Go back")
        ids = _ids(pairs, show, id)
        self.earlier[id] = decide_pair(self.layout, pair.batch, id, decision, self.person)
        return _to(id=[*ids, id][ids.index(id) + 1], show=show, done=id)

    def tests(self, request: Request) -> Response:
        """The test cases, the worst first if asked for."""
        cases, order = list_predicted(self.layout), request.query_params.get("order", "worst")
        ordered = sorted(cases, key=lambda case: case.worst) if order == "worst" else cases
        return self._html("tests", cases=ordered, order=order, arms=list(cases[0].dice) if cases else [])

    def test(self, request: Request) -> Response:
        """One test case: image, reference, and what each arm predicts."""
        cases, order = list_predicted(self.layout), request.query_params.get("order", "worst")
        case = find_predicted(cases, request.query_params.get("id", ""))
        ids = [each.id for each in (sorted(cases, key=lambda case: case.worst) if order == "worst" else cases)]
        seeds = sorted({seed for scores in case.by_seed.values() for seed in scores})
        seed, at = _number(request, "seed", seeds[0]), ids.index(case.id)
        return self._html("test", case=case, order=order, seeds=seeds, seed=seed if seed in seeds else seeds[0], at=at + 1,
                          total=len(ids), before=ids[at - 1] if at else "", after=ids[at + 1] if at + 1 < len(ids) else "",
                          several=len(self.classes) > 1)

    def test_png(self, request: Request) -> Response:
        """One picture of a test case."""
        case = find_predicted(list_predicted(self.layout), request.query_params.get("id", ""))
        arm, seed = request.query_params.get("arm", ""), _number(request, "seed")
        return _png(predicted_picture(self.layout, case, arm, seed, len(self.classes)))

    def _html(self, name: str, **values: Any) -> Response:
        several = [(each, css(colour)) for each, colour in zip(self.classes, CLASS_COLOURS, strict=False)]
        key = {"pair": [("mask that it was painted by", css(INVENTED)), ("mask that segmenters learn from", css(FINAL))],
               "test": [("reference", css(REFERENCE)), ("prediction", css(PREDICTED))]}.get(name, [])
        return _html(f"browsing/{name}.html.j2", person=self.person, arm_name=arm_name, isnan=math.isnan,
                     outlines=several if len(several) > 1 else key, **values)

    def _counts(self, pairs: Sequence[PairView]) -> dict[str, Any]:
        """Of pairs by `SHOWS`, and how many decisions the filter hasn't heeded yet."""
        return {"shows": [(name, words, sum(map(fits, pairs))) for name, (words, fits) in SHOWS.items()],
                "waiting": sum(pair.waits for pair in pairs)}


def _show(request: Request) -> str:
    show = request.query_params.get("show", "all")
    return show if show in SHOWS else "all"


def _number(request: Request, name: str, default: int = 1) -> int:
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else default


def _ids(pairs: Sequence[PairView], show: str, id: str) -> list[str]:
    """Of the pairs that are shown, and of the one at hand, which a decision may just have moved elsewhere."""
    return [pair.id for pair in pairs if pair.id == id or SHOWS.get(show, SHOWS["all"])[1](pair)]


def _to(**query: str) -> Response:
    return RedirectResponse(f"/pair?{urlencode(query)}", 303)
