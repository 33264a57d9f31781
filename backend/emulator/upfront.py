"""Faults that answer instead of the engine, or keep it from answering."""

import asyncio
import os
import signal

from emulator.dialect import Dialect, Exchange, Whole

_HTML = (
    b"<!doctype html><html><head><title>emulated</title></head><body><h1>502 Bad Gateway</h1></body></html>"
)
_NOT_HTTP = b"\x16\x03\x01\x00\x05emulated bytes that are no HTTP\r\n\r\n"


async def meet(exchange: Exchange, dialect: Dialect) -> bool:
    """Act out such a fault; true when the exchange is over.

    Raises Severed when the fault cuts the connection.
    """
    plan, outlet = exchange.plan, exchange.outlet
    if not plan:
        return False
    if "die" in plan:
        os.kill(os.getpid(), signal.SIGKILL)
    if "reset_before_headers" in plan or "reset_if_reused" in plan:
        raise outlet.sever(reset=True)
    if "close_before_headers" in plan or "close_if_reused" in plan:
        raise outlet.sever(reset=False)
    if any(name in plan for name in ("hang_before_headers", "health_hang", "metrics_hang")):
        await asyncio.get_running_loop().create_future()
    if "delay" in plan:
        await asyncio.sleep(plan.number("delay"))
    if "not_http" in plan:
        outlet.raw(_NOT_HTTP)
        return True
    whole = _instead(exchange, dialect)
    if whole is not None:
        await exchange.reply(whole)
    return whole is not None


def _instead(exchange: Exchange, dialect: Dialect) -> Whole | None:
    plan = exchange.plan
    if "status" in plan:
        whole = dialect.refusal(int(plan.number("status")), plan)
        retry_after = plan.part("status", 1)
        more = (("retry-after", retry_after),) if retry_after else ()
        return Whole(whole.status, whole.body, whole.media, (*whole.headers, *more))
    if "redirect" in plan:
        return Whole(307, b"", None, (("location", plan["redirect"]),))
    if "html" in plan:
        return Whole(200, _HTML, "text/html; charset=utf-8")
    if "bad_json" in plan:
        return Whole(200, b'{"generated_text":"broken,"choices":[{"index":0,', "application/json")
    if "health_status" in plan:
        return dialect.refusal(int(plan.number("health_status")), plan)
    return None
