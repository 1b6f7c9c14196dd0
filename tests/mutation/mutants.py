"""The small changes: a comparison altered, a condition negated, a call removed, a sign changed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import parso
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.operators import (
    binary_operator_replacement,
    boolean_replacer,
    comparison_operator_replacement,
    unary_operator_replacement,
)
from cosmic_ray.operators.operator import Operator

Position = tuple[int, int]
COMPARISONS = (
    ("Lt", "LtE"), ("Lt", "GtE"), ("LtE", "Lt"), ("LtE", "Gt"), ("Gt", "GtE"), ("Gt", "LtE"), ("GtE", "Gt"), ("GtE", "Lt"),
    ("Eq", "NotEq"), ("NotEq", "Eq"), ("Is", "IsNot"), ("IsNot", "Is"),
)  # fmt: skip
SIGNS = (("Add", "Sub"), ("Sub", "Add"), ("Mul", "Div"), ("Div", "Mul"))


class DropCall(Operator):  # type: ignore[misc]  # ships no types
    """Removes a call that is a statement of its own."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Position, Position]]:
        """Yields the position of each statement that is only a call, awaited or not."""
        if node.type == "simple_stmt" and _is_call(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        """Replaces the statement with `pass`."""
        node.children[0] = parso.parse(f"{node.children[0].get_first_leaf().prefix}pass")  # type: ignore[no-untyped-call]  # untyped
        return node

    @classmethod
    def examples(cls) -> Sequence[object]:
        """Returns no examples, because the operator is in no catalogue."""
        return ()


def _is_call(node: Any) -> bool:
    if node.type not in {"atom_expr", "power", "await_expr"}:
        return False
    last = node.children[-1]
    return bool(last.type == "trailer" and last.children[0] == "(")


OPERATORS: tuple[Operator, ...] = (
    DropCall(),
    boolean_replacer.AddNot(),
    boolean_replacer.ReplaceTrueWithFalse(),
    boolean_replacer.ReplaceFalseWithTrue(),
    boolean_replacer.ReplaceAndWithOr(),
    boolean_replacer.ReplaceOrWithAnd(),
    unary_operator_replacement.ReplaceUnaryOperator_USub_UAdd(),
    unary_operator_replacement.ReplaceUnaryOperator_Delete_Not(),
    *(getattr(binary_operator_replacement, f"ReplaceBinaryOperator_{old}_{new}")() for old, new in SIGNS),
    *(getattr(comparison_operator_replacement, f"ReplaceComparisonOperator_{old}_{new}")() for old, new in COMPARISONS),
)


class Mutant(NamedTuple):
    """One change to a file."""

    path: Path
    begins: int
    """The first line of the changed statement."""
    line: int
    column: int
    operator: Operator
    occurrence: int
    """Its index among the places in the file that the operator can change."""

    def __str__(self) -> str:
        text = self.path.read_text().splitlines()[self.line - 1].strip()
        return f"{self.path} {type(self.operator).__name__.removeprefix('Replace')}: {text}"

    def applied(self, code: str) -> str:
        """Returns the file's text with the change."""
        return str(mutate_code(code, self.operator, self.occurrence))


def mutants_of(path: Path) -> Iterator[Mutant]:
    """Yields each change that can be made to the file, except in decorators."""
    nodes = list(ast_nodes(get_ast(path.read_text())))
    for operator in OPERATORS:
        places = ((node, position) for node in nodes for position, _ in operator.mutation_positions(node))
        for occurrence, (node, (line, column)) in enumerate(places):
            statement = _statement(node)
            if statement.type != "decorator" and not _is_separator(node):
                yield Mutant(path, statement.start_pos[0], line, column, operator, occurrence)


def _statement(node: Any) -> Any:
    while not node.type.endswith(("_stmt", "def", "decorator")):
        node = node.parent
    return node


def _is_separator(node: Any) -> bool:
    return node.type == "operator" and node.parent.type in {"parameters", "param"}
