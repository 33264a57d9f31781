"""How each API says what is wanted and what was answered, where the engine speaks another."""

from pointsman.apis import openai, tgi
from pointsman.apis.base import Reply, Writer
from pointsman.apis.openai import ChatWriter
from pointsman.apis.plain import PlainWriter
from pointsman.call import Api, Call, Operation
from pointsman.generation import Wish

GENERATIONS = frozenset({Operation.CHAT, Operation.COMPLETION, Operation.GENERATE, Operation.COMPAT})


def wish_of(call: Call) -> Wish:
    """What a call asks for.

    Raises:
        RouterError: INVALID_PARAMETER, naming the field that asks for what cannot be.
    """
    if call.wish is not None:
        return call.wish
    return tgi.read(call) if call.api is Api.TGI else openai.read(call)


def writer_of(call: Call, reply: Reply) -> Writer:
    """What writes the answer to a call that `wish_of` found good."""
    if call.shape is not None:
        return PlainWriter(call.shape, reply)
    return tgi.Writer(tgi.form(call)) if call.api is Api.TGI else ChatWriter(call, reply)


def repeatable(call: Call) -> bool:
    """Whether the engine answers equal calls alike: the likeliest token each time, or dice from a seed.

    So the engines mean it; batches of another size may still round otherwise. What cannot be read is not.
    """
    if call.api is Api.PLAIN:
        return call.wish is not None and (not call.wish.sampling or call.wish.seed is not None)
    return tgi.repeatable(call.fields) if call.api is Api.TGI else openai.repeatable(call.fields)
