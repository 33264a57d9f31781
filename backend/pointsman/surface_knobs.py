"""The settings of single surfaces: which model serves them, and what a call gets that says nothing."""

from pointsman.knob import section
from pointsman.registry import SurfaceConfig
from pointsman.surfaces import NAMES
from pointsman.surfaces.llm_service import TOKENS_MAX, TOP_K_MAX, LlmServiceConfig
from pointsman.surfaces.plg import PlgConfig
from pointsman.values import NAME, number, whole

SURFACES = "SURFACES"  # holds a section for each surface
_OLD_MODEL_NAMES: dict[str, dict[str, tuple[str, ...]]] = {  # what the surfaces' own services called it
    "llm_service": {"model": ("MODEL__NAME",)},
    "plg": {"model": ("LLM_API_MODEL_NAME", "LLM_API_LLM_MODEL_NAME")},
}
MODELS_BY_SURFACE = tuple(
    knob
    for name in NAMES
    for knob in section(
        f"{SURFACES}__{name.upper()}",
        SurfaceConfig(),
        {"model": (NAME, f"Serves requests to the surface {name} that name no model; unset: DEFAULT_MODEL.")},
        **_OLD_MODEL_NAMES.get(name, {}),
    )
)
LLM_SERVICE = section(
    "MODEL",
    LlmServiceConfig(),
    {
        "max_tokens": (whole(1, TOKENS_MAX, "tokens"), "Length of an answer."),
        "temperature": (number(0, 2, "number"), "How freely a token is chosen; 0: the likeliest."),
        "top_p": (number(0, 1, "share"), "Share of likely tokens that one is chosen from."),
        "top_k": (whole(1, TOP_K_MAX), "Number of likely tokens that one is chosen from."),
    },
)
PLG = section(
    "PLG",
    PlgConfig(),
    {
        "max_tokens": (whole(1, 1_000_000, "tokens"), "Length of an answer."),
        "temperature": (number(0, 2, "number"), "How freely a token is chosen; 0: the likeliest."),
        "top_p": (number(0.01, 1, "share"), "Share of likely tokens that one is chosen from."),
        "max_context_tokens": (
            whole(64, 10_000_000, "tokens"),
            "What conversation and answer may take together; unset: what the engine takes.",
        ),
        "response_reserve_tokens": (
            whole(1, 1_000_000, "tokens"),
            "Of that, kept for the answer, half at most; the oldest turns go until it is free.",
        ),
    },
    **{
        name: (f"LLM_API_{name.upper()}",)
        for name in ("max_tokens", "temperature", "top_p", "max_context_tokens", "response_reserve_tokens")
    },
)
