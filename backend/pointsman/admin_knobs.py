"""The settings of what operators may do while the router runs."""

from pointsman.egress import AdminConfig
from pointsman.knob import section
from pointsman.values import NETWORKS

ADMIN = section(
    "ADMIN",
    AdminConfig(),
    {
        "replica_networks": (
            NETWORKS,
            "Where replicas that operators add may be; link-local and metadata addresses never are.",
        ),
    },
)
