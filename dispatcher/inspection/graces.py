"""How long a pause may last before deliveries become dead letters."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from dispatcher.policy.decision import PauseReason
from dispatcher.settings.settings import Settings


@dataclass(frozen=True, slots=True)
class Graces:
    """How long a pause may last before a failure turns deliveries into dead letters."""

    auth: timedelta
    """The general grace."""
    disabled: timedelta
    """The grace while the integration is disabled."""

    @classmethod
    def of(cls, settings: Settings) -> "Graces":
        """Returns the graces of the settings."""
        return cls(timedelta(seconds=settings.auth_grace), timedelta(seconds=settings.disabled_grace))

    def end(self, reason: str | None, since: datetime | None) -> datetime | None:
        """Returns the end of the grace of a pause; None if it never ends, or if there is no pause."""
        if since is None or reason == PauseReason.OPERATOR:
            return None
        return since + (self.disabled if reason == PauseReason.DISABLED else self.auth)
