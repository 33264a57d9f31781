"""What of a router lasts as long as its process: what counts, remembers or is connected.

A reload changes what these do and never replaces them, so that nothing is dropped or counted anew. What
merely follows from the settings is made anew each time: `edition`.
"""

from collections.abc import Callable
from functools import partial
from random import Random

from pointsman.admission import Admission
from pointsman.availability import Availability
from pointsman.body import Buffer
from pointsman.cache import ResponseCache
from pointsman.census import Census
from pointsman.channel import Channel
from pointsman.condition import WHY
from pointsman.conduct import Cause
from pointsman.control.footprint import Footprint
from pointsman.control.happenings import Chronicle
from pointsman.control.roster import Roster
from pointsman.control.together import Together
from pointsman.crew import Crew
from pointsman.events import Events, Kind
from pointsman.following import Following
from pointsman.forward import Forwarder
from pointsman.guard import failure_counter
from pointsman.inventory import Inventory, Served
from pointsman.kept import Kept
from pointsman.key_review import KeyReview
from pointsman.keyring import Keyring
from pointsman.limits import Counter
from pointsman.log import AccessLog
from pointsman.membership import Change
from pointsman.metrics import Metrics
from pointsman.outliers import Outliers
from pointsman.recent import Recent
from pointsman.registry import Registry
from pointsman.replica import Replica
from pointsman.routes import Routes
from pointsman.running import Running
from pointsman.sessions import Sessions
from pointsman.settings import Settings
from pointsman.single_flight import SingleFlight
from pointsman.store import make as make_store
from pointsman.store.fallback import Local, Share
from pointsman.store.memory import MemoryStore
from pointsman.store.tally import Tallies
from pointsman.upstream import Pools
from pointsman.usage import Usage


class Parts:
    """The parts, as the first settings want them.

    Args:
        channel: to the other workers.
        workers: how many processes serve; None: several.
    """

    def __init__(self, settings: Settings, channel: Channel, workers: Callable[[], int | None]) -> None:
        self.events = Events()
        self.channel = channel
        self.outliers = Outliers(settings.ejection, Random())
        self.registry = Registry(
            settings.models,
            settings.retry,
            settings.default_model,
            surfaces=settings.surfaces,
            outliers=self.outliers,
        )
        self.access_log = AccessLog(settings.log_format, settings.log_level)
        self.sessions, self.recent, self.availability = Sessions(), Recent(), Availability()
        self.metrics = Metrics(self.registry, Routes().templates)
        self.outliers.on_change = self._note_ejection
        self.store = make_store(settings.store, settings.memory, partial(self.events.note, Kind.STORE))
        shared = self.store if isinstance(self.store, Tallies) else None
        self.census = Census(self.sessions, self.recent, shared)
        self.share = Share(MemoryStore(settings.memory), 1)  # of the limits, where nothing is shared
        self.counter: Counter = self.share if settings.store.in_memory else Local(self.store, self.share)
        self.cache = ResponseCache(self.store, settings.answer_cache.of_cache)
        self.flights: SingleFlight[Kept | None] = SingleFlight(settings.flights)
        self.usage = Usage()
        self.failures = failure_counter()
        self.keyring = Keyring(settings.keys_file, settings.security.own_keys, self._note_keys)
        self.key_review = KeyReview(self.registry)
        self.pools = Pools(settings.upstream)
        self.admission = Admission(self.registry, settings.admission, Random())
        self.forwarder = Forwarder(self.admission, self.pools, settings.retry, Random())
        self.running = Running()
        self.buffer = Buffer(settings.admission.buffer_bytes)
        self.registry.networks = settings.admin.replica_networks
        self.crew = Crew(self.registry, self.pools, self.events, self.admission.changed)
        self.following = Following(self.registry, self.crew, channel, self.events, workers)
        self.roster = Roster(self.registry, channel)
        self.chronicle = Chronicle(self.events, channel)
        self.together = Together(
            channel, self.usage, self.cache, self.flights, apart=settings.store.in_memory
        )

    def renew(self, settings: Settings) -> Change:
        """Do by other settings what needs no new start; `crew` is still to be told of the replicas."""
        self.access_log.renew(settings.log_level)
        self.cache.configure(settings.answer_cache.of_cache)
        self.flights.config = settings.flights
        self.keyring.renew(settings.keys_file, settings.security.own_keys)
        self.admission.config = settings.admission
        self.outliers.config = settings.ejection
        self.buffer.most = settings.admission.buffer_bytes
        self.forwarder.retry = settings.retry
        if self.crew.prober is not None:
            self.crew.prober.renew(settings.health, settings.progress)
        change = self.registry.renew(
            settings.models,
            settings.retry,
            settings.default_model,
            settings.surfaces,
            settings.admin.replica_networks,
        )
        self.key_review.look(self.keyring.table)
        return change

    def inventory(self, served: Served) -> Inventory:
        """What looks at all that is held."""
        return Inventory(
            served,
            self.running,
            self.registry,
            self.pools,
            self.admission,
            self.flights,
            self.buffer,
            lambda: self.tables,
            Footprint().memory_bytes,
        )

    def _note_keys(self, what: str) -> None:
        self.events.note(Kind.KEYS, what)
        self.key_review.look(self.keyring.table)

    def _note_ejection(self, replica: Replica, cause: Cause | None) -> None:
        if cause is not None:
            self.metrics.note_ejected(replica, cause)
        what = "takes calls again" if cause is None else f"ejected: {WHY[cause]}"
        self.events.note(Kind.EJECTION, f"replica {replica.id} {what}")

    @property
    def limits_local(self) -> tuple[bool, int]:
        """Whether the shared store of the limits is away now, and how many requests did without it."""
        counter = self.counter
        return (counter.local, counter.local_answers) if isinstance(counter, Local) else (False, 0)

    @property
    def tables(self) -> dict[str, int]:
        """Entries of the tables that callers fill, by name."""
        own = {"usage": len(self.usage), "events": len(self.events), "poison": len(self.forwarder.poison)}
        own |= {"sessions": len(self.sessions), "census": len(self.census), "flights": len(self.flights)}
        own |= {"token_counts": self.forwarder.counts, "resolved_names": self.pools.names}
        own |= {"served_names": self.registry.served_names, "log_lines": self.access_log.waiting}
        return {**self.store.sizes(), **self.share.sizes(), **own}
