"""The APIs we serve, one file each. Settings know them by the names in this table."""

from pointsman.surfaces.backend_api import BackendApi
from pointsman.surfaces.distilgpt2 import DistilGpt2
from pointsman.surfaces.llm_service import LlmService
from pointsman.surfaces.openai import OpenAI
from pointsman.surfaces.plg import Plg
from pointsman.surfaces.tgi import Tgi

NAMES: tuple[str, ...] = tuple(
    surface.name for surface in (OpenAI, Tgi, BackendApi, DistilGpt2, LlmService, Plg)
)
