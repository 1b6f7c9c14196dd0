"""The parts of the SQL that creates or replaces a trigger."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Script:
    """The statements, without a delimiter at their ends."""

    test: str
    """Fails, and changes nothing, if a name or an expression does not fit the table: triggers are compiled when they fire."""
    create: tuple[str, ...]
    """Create the trigger, or replace it so that no committed change goes unannounced in between."""
    note: tuple[str, ...]
    """Write the command that made the trigger into the catalog, where it outlives the trigger: `dispatcher check` looks for it."""
    bodies: dict[str, str]
    """What the catalog shows of the trigger: by the name of a function (PostgreSQL) or trigger, its text."""
    frame: tuple[str, str] = ("", "")
    """Lines before and after, which a client needs and `apply` does not."""
    delimiter: str = ";"

    @property
    def statements(self) -> tuple[str, ...]:
        """All statements in order."""
        return (self.test, *self.create, *self.note)

    def __str__(self) -> str:
        """The script for the database's own client."""
        before, after = self.frame
        return before + "".join(f"{statement}{self.delimiter}\n" for statement in self.statements) + after
