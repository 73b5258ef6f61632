"""Every request first: from its key to the project it may act for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from chalicelib.access.access import Credential, Project, Scope, key_of
from chalicelib.access.access_table import AccessTable
from chalicelib.base.errors import Forbidden, Unauthenticated

CACHE_SECONDS = 60  # a revoked key stops working within this time
MAX_CACHED = 10_000  # keys; then the cache starts anew, so that made-up keys cannot fill the memory


@dataclass(frozen=True, slots=True)
class Authorizer:
    """Looks keys up, at most once a minute each."""

    access: AccessTable
    clock: Callable[[], float]  # Unix seconds: a frozen container's monotonic clock may have stood still
    cache: dict[str, tuple[float, Credential]] = field(default_factory=dict)  # key -> until when

    def project(self, headers: Mapping[str, str], scope: Scope) -> Project:
        """Return the project of the key in the headers; raises Unauthenticated or Forbidden."""
        return self.project_of_key(key_of(headers), scope)

    def project_of_key(self, key: str | None, scope: Scope) -> Project:
        """Return the same for a key that came in another place."""
        if not key:
            raise Unauthenticated(
                "the request has no API key; send one as x-api-key, as a bearer token, or as the user name of Basic "
                "credentials",
                code="missing_key",
            )
        credential = self._credential(key)
        if credential is None:
            raise Unauthenticated("the API key is unknown or no longer valid")
        if scope not in credential.scopes:
            raise Forbidden(f"the key has the scopes {sorted(credential.scopes)}; the request needs {scope.value!r}")
        return credential.project

    def project_of_bus(self, project_id: str) -> Project:
        """The project that the stage's BUS_PROJECT names, for events that come without a key; raises Unauthenticated.

        Nobody but the operator can set it, so it stands for a key.
        """
        found = self.access.owner(project_id) if project_id else None
        if found is None:
            raise Unauthenticated(f"BUS_PROJECT is {project_id!r}; it must name a project, or no event may be taken")
        return found

    def _credential(self, key: str) -> Credential | None:
        now = self.clock()
        cached = self.cache.get(key)
        if cached and cached[0] - CACHE_SECONDS <= now < cached[0]:  # not of a future that a set-back clock left
            return cached[1]
        credential = self.access.credential(key, now)
        if credential is not None:
            if len(self.cache) >= MAX_CACHED:
                self.cache.clear()
            self.cache[key] = (min(now + CACHE_SECONDS, credential.ends_at), credential)
        return credential
