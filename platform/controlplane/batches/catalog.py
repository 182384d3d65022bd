"""Which models a key may name, as a gateway would find them, and the endpoint behind each."""

from controlplane.endpoints.models import Alias, Endpoint
from controlplane.tenancy.models import ApiKey


class Catalog:
    """One look at the endpoints and aliases of a key's project."""

    def __init__(self, key: ApiKey) -> None:
        self._allowed = frozenset(key.allowed_models)
        self._by_name: dict[str, Endpoint] = {}
        self._by_id: dict[str, Endpoint] = {}
        region = key.project.organization.region_code
        there = Endpoint.objects.filter(deleted_at=None).order_by("id")
        shared = there.filter(region_code=region, shared_at__isnull=False, unshared_at=None)
        for endpoint in (*shared, *there.filter(project_id=key.project_id)):
            self._by_name[endpoint.name] = endpoint  # a project's own hides a shared one
            self._by_id[endpoint.id] = endpoint
        aliases = Alias.objects.filter(project_id=key.project_id)
        self._aliases = {alias.name: alias.targets for alias in aliases}

    def endpoint(self, model: str) -> str | None:
        """The id of the endpoint, the first one of an alias; None for what it may not name."""
        targets = self._aliases.get(model)
        if targets is None:
            found = self._find(model)
            return found.id if found is not None and self._admits(found, model) else None
        for target in targets:
            found = self._find(target)
            if found is not None and (model in self._allowed or self._admits(found, target)):
                return found.id
        return None

    def knows(self, model: str) -> bool:
        return self.endpoint(model) is not None

    def _find(self, model: str) -> Endpoint | None:
        name, colon, adapter = model.partition(":")
        found = self._by_name.get(name) or self._by_id.get(name)
        if found is None or (colon and adapter not in {one["name"] for one in found.adapters}):
            return None
        return found

    def _admits(self, endpoint: Endpoint, model: str) -> bool:
        adapter = model.partition(":")[2]
        names = {endpoint.name, endpoint.id} | (
            {f"{endpoint.name}:{adapter}"} if adapter else set()
        )
        return not self._allowed or not self._allowed.isdisjoint(names)
