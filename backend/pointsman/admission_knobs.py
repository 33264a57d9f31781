"""The settings of who gets a slot of a replica, and who waits for one."""

from pointsman.admission import AdmissionConfig
from pointsman.knob import section
from pointsman.values import number, whole

ADMISSION = section(
    "ADMISSION",
    AdmissionConfig(),
    {
        "slots": (
            whole(1, 1_000_000, "requests"),
            "At once on a replica that has no max_in_flight and does not tell its own limit.",
        ),
        "queue_per_slot": (
            number(0, 1000, "requests"),
            "That may wait for a model, for each slot that its replicas have; 0: none.",
        ),
        "queue_max": (whole(0, 1_000_000, "requests"), "That may wait for a model, whatever its slots."),
        "newest_first_after_s": (
            number(0, 3600),
            "When one has waited so long, the newest get the slots first.",
        ),
        "buffer_bytes": (
            whole(1 << 20, 1 << 40, "bytes"),
            "Of all request bodies together; beyond, new ones are refused with 503.",
        ),
    },
)
