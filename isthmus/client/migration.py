"""Live migrations: plans that pack, balance or drain hosts."""

from __future__ import annotations

from isthmus import schema
from isthmus.client._resource import Collection, ask


class Migrations(Collection[schema.MigrationPlan]):
    """``client.migrations``. One VM alone is moved by ``vm.migrate()``."""

    _path = "/v1/migrations"
    _model = schema.MigrationPlan

    def rebalance(
        self,
        goal: str,
        *,
        apply: bool = False,
        max_moves: int | None = None,
        max_cost_s: float | None = None,
        rest_s: float | None = None,
        min_gain: float | None = None,
    ) -> schema.MigrationPlan:
        """What to migrate so that hosts are emptied (``pack``) or loaded evenly (``balance``); ``apply`` begins it.

        ``max_cost_s``: seconds of copying in all; ``rest_s``: VMs placed or moved less long ago stay.
        """
        return self._http.post(
            schema.MigrationPlan,
            self._path,
            ask(
                schema.MigrationCreate,
                goal=goal,
                apply=apply or None,
                max_moves=max_moves,
                max_cost_s=max_cost_s,
                rest_s=rest_s,
                min_gain=min_gain,
            ),
            repeat=not apply,
        )

    def drain(self, host: str, *, dry_run: bool = False) -> schema.MigrationPlan:
        """Put a host into maintenance and begin to move what runs there elsewhere; with ``dry_run`` only say what would move."""
        body = ask(schema.MigrationCreate, goal="drain", host=host, apply=True)
        return self._http.post(schema.MigrationPlan, self._path, body, query={"dry_run": dry_run})
