"""What was typed: the values of options by their names, each of the kind that is asked for."""

from __future__ import annotations

from cvmplan.planning.read import Written


class Typed(dict[str, Written]):
    """Options and arguments by their names; None, False or an empty list: not given."""

    def text(self, name: str) -> str | None:
        """Return what was typed for an option, None where it was not given."""
        value = self.get(name)
        return value if isinstance(value, str) else None

    def texts(self, name: str) -> list[str]:
        """Return what was typed for an option that may be repeated."""
        value = self.get(name)
        return value if isinstance(value, list) else []

    def flag(self, name: str) -> bool:
        """Whether a flag was given."""
        return self.get(name) is True

    def number(self, name: str) -> int:
        """Return the number of an option that typer reads as one."""
        value = self.get(name)
        return value if isinstance(value, int) else 0

    def seconds(self, name: str) -> float:
        """Return the number of seconds of an option that typer reads as a number."""
        value: object = self.get(name)
        return float(value) if isinstance(value, int | float) else 0.0

    def only(self, *names: str) -> Typed:
        """Return these options."""
        return Typed({n: v for n, v in self.items() if n in names})

    def without(self, *names: str) -> Typed:
        """Return all options but these."""
        return Typed({n: v for n, v in self.items() if n not in names})

    def given(self, *names: str) -> list[str]:
        """Return those of `names`, or of all, that were given."""
        return [n for n in names or self if self.get(n) not in (None, False, [])]
