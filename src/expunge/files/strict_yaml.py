"""YAML as recipes need it: no tags of other programs, no aliases, no key twice, no control characters, nothing deep.

An alias is refused since a few lines of them can stand for more values than there is memory for.
"""

from collections.abc import Hashable

import yaml

from expunge.errors import InputError
from expunge.files.visible import unsafe

MOST_CHARACTERS = 1 << 18  # some seconds for PyYAML; our longest recipe has four thousand
DEEPEST = 50
LARGEST = 2**63 - 1
REMEDY = "Write plain keys and values, each value out in full."


class _Refused(yaml.MarkedYAMLError):
    """What YAML allows and a recipe must not hold."""


class _Loader(yaml.SafeLoader):
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _refused("an alias (*name), which is not read here", self.peek_event())
        if self.depth == DEEPEST:
            raise _refused("nested too deeply", self.peek_event())
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """Values that do not fit their tag (!!int x, a date that does not exist) get a line too."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, ArithmeticError):
            raise _refused("a value that its type does not allow (a date that does not exist?)", node) from None
        if isinstance(value, int) and abs(value) > LARGEST:
            raise _refused("a number of over 63 bits", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        pairs = node.value if isinstance(node, yaml.MappingNode) else ()
        keys = [key for key, _ in pairs if isinstance(key, yaml.ScalarNode)]
        seen: set[str] = set()
        for key in keys:
            if key.value in seen:
                raise _refused("a key that stands twice", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> str:
        if isinstance(node, yaml.ScalarNode) and any(unsafe(sign) for sign in node.value):
            raise _refused("a control character", node)
        return super().construct_scalar(node)


def parse(text: str, source: str) -> object:
    """The value of a YAML text. Raises `InputError` with `source` and line."""
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{source}: {len(text):,} characters, and {MOST_CHARACTERS:,} is the most. {REMEDY}")
    try:
        return yaml.load(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line, what = mark.line + 1 if mark else 1, f" ({error.problem})" if isinstance(error, _Refused) else ""
    except yaml.reader.ReaderError as error:
        line, what = text.count("\n", 0, error.position) + 1, " (a control character)"
    raise InputError(f"{source}, line {line}: not YAML{what}. {REMEDY}")


def _refused(what: str, at: yaml.Node | yaml.Event) -> _Refused:
    return _Refused(problem=what, problem_mark=at.start_mark)  # type: ignore[arg-type]
