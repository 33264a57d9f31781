"""The settings of the connections to engines."""

from pointsman.knob import Knob, section
from pointsman.upstream import UpstreamConfig
from pointsman.values import FILE, number

UPSTREAM = (
    Knob(
        "UPSTREAM__CA_FILE",
        FILE,
        UpstreamConfig().ca_file,
        "Certificates (PEM) that engines' TLS is checked with; unset: the system's.",
        also=("UPSTREAM_CA_FILE",),
    ),
    *section(
        "UPSTREAM",
        UpstreamConfig(),
        {
            "client_cert": (FILE, "Certificate (PEM) shown to engines."),
            "client_key": (FILE, "Its private key (PEM), unless in the same file."),
            "idle_expiry_s": (
                number(0.1, 3600),
                "How long idle connections are kept; unset: what fits the engine.",
            ),
        },
        idle_expiry_s=("LLM_API_KEEPALIVE_EXPIRY",),
    ),
)
