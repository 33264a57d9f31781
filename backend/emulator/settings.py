"""The facts a process is started with."""

from dataclasses import dataclass, field
from enum import Enum

from emulator.faults import Armed


class Kind(Enum):
    """Whose protocol is spoken."""

    TGI = "tgi"
    VLLM = "vllm"


class Outcome(Enum):
    """What becomes of requests that vLLM has not finished when its time to shut down is over.

    The real one kills its engine then, and which of these happens is a race (measured on 0.32, no timeout,
    five times: twice `hang`, once `abort`, twice `error`).
    """

    HANG = "hang"  # no byte and no end, until the client leaves
    ABORT = "abort"  # a last chunk with that finish_reason
    ERROR = "error"  # an error frame and [DONE], or 500


@dataclass(frozen=True, slots=True)
class Settings:
    """All flags; `__main__` says what each means."""

    engine: Kind
    host: str
    port: int
    model: str
    served_names: tuple[str, ...]
    ttft_s: float
    tokens_per_s: float
    prefill_tokens_per_s: float
    max_concurrent: int
    max_batch_size: int
    max_total_tokens: int
    max_queued: int  # 0: no limit (vLLM)
    kv_tokens: int
    seed: int
    eos_after: int
    api_keys: tuple[str, ...]
    chat_template: bool
    embedding: bool
    auto_tools: bool
    request_id_headers: bool
    force_include_usage: bool
    load_tracking: bool
    sse_keep_alive_s: float  # 0: off
    keep_alive_s: float | None
    ready_after_s: float
    shutdown_timeout_s: float
    unfinished: Outcome
    version: str
    faults: tuple[Armed, ...] = field(default=())

    @property
    def name(self) -> str:
        """The served name."""
        return self.served_names[0]
