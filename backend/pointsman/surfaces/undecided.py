"""`POST /generate`: three APIs share the path, and the body says whose request it is."""

import msgspec

from pointsman.call import Fields
from pointsman.errors import UNKNOWN_FORM, RouterError
from pointsman.keys import Need
from pointsman.surfaces import backend_api, tgi
from pointsman.surfaces.base import Surface


class Undecided:
    """Finds the surface; until then errors speak to all of them."""

    need = Need.NEVER  # two of the three have clients that cannot send a key

    def __init__(self, tgi_surface: Surface, backend_surface: Surface, distilgpt2: Surface) -> None:
        self._tgi = tgi_surface
        self._backend = backend_surface
        self._distilgpt2 = distilgpt2

    def surface_of(self, fields: Fields) -> Surface:
        """The API this body belongs to.

        Raises:
            RouterError: UNKNOWN_FORM.
        """
        if "inputs" in fields:
            return self._tgi
        if "prompt" in fields:
            return self._backend if "model_id" in fields or "model" in fields else self._distilgpt2
        raise RouterError(UNKNOWN_FORM)

    def error(self, error: RouterError, request_id: str) -> tuple[int, bytes]:
        both = {**tgi.error_body(error, request_id), **backend_api.detail_body(error, request_id)}
        return error.status, msgspec.json.encode(both)

    def error_frame(self, error: RouterError, request_id: str) -> bytes:
        return self._tgi.error_frame(error, request_id)
