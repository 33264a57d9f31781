"""The dialects, by engine. A new engine is one file and its line here."""

from pointsman.engines.base import Dialect
from pointsman.engines.tgi import Tgi
from pointsman.engines.vllm import Vllm
from pointsman.replica import Engine

DIALECTS: dict[Engine, Dialect] = {Engine.TGI: Tgi(), Engine.VLLM: Vllm()}
