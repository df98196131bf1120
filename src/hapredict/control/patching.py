"""Changes of a spec as a YAML file of their own, and written into the spec between its comments."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hapredict.errors import Problem, SpecError


def patch_text(patch: Mapping[str, Any], about: str) -> str:
    """A YAML file with the changed keys alone, below a comment that says what they are."""
    lines = [f"# {line}".rstrip() for line in about.splitlines()]
    return "\n".join(lines) + "\n" + yaml_of(patch)


def merged(raw: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """The mapping with the patch laid over it."""
    found = dict(raw)
    for name, value in patch.items():
        old = found.get(name)
        if isinstance(value, Mapping) and isinstance(old, Mapping):
            found[name] = merged(old, value)
        else:
            found[name] = value
    return found


def patched(text: str, patch: Mapping[str, Any], where: str = "spec") -> str:
    """The YAML text of a spec with the patch in it; all other lines stay as they are.

    A value that is there is replaced in its place, a new key becomes the first of its section, and
    a new section goes to the end. Comments inside a replaced value are lost, and no others. Raises
    SpecError if the text is written in a way that does not allow this (anchors, say), in which case
    the keys have to be written by hand.
    """
    raw: dict[str, Any] = yaml.safe_load(text)
    found = text
    for path, value in _leaves(patch):
        found = _set(found, path, value)
    if yaml.safe_load(found) != merged(raw, patch):
        raise SpecError(
            (
                Problem(
                    where, f"cannot be changed without hurting it; write this in:\n{yaml_of(patch)}"
                ),
            )
        )
    return found


def write_beside(spec: Path, patch: Mapping[str, Any], result: str) -> Path:
    """Write `<spec>.tuned.yaml` with the changed keys, `{}` if there are none; the path.

    It is written in any case, so that what is there is from the last search.
    """
    about = (
        f"Written by `hapredict tune`: what to change in {spec.name}.\n"
        f"{result}\n"
        "`hapredict tune --write` puts it into the spec."
    )
    path = spec.with_name(f"{spec.stem}.tuned{spec.suffix}")
    write_over(path, patch_text(patch, about))
    return path


def write_over(path: Path, text: str) -> None:
    """Replace a file's text: at any moment all of the old or all of the new."""
    hidden = path.with_name(f".{path.name}.new")
    hidden.write_text(text, encoding="utf-8")
    if path.exists():
        hidden.chmod(path.stat().st_mode)
    hidden.replace(path)


def _leaves(
    patch: Mapping[str, Any], path: tuple[str, ...] = ()
) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in patch.items():
        if isinstance(value, Mapping):
            found += _leaves(value, (*path, name))
        else:
            found.append(((*path, name), value))
    return found


def _set(text: str, path: tuple[str, ...], value: Any) -> str:
    section: Any = yaml.compose(text, Loader=yaml.SafeLoader)
    for depth, name in enumerate(path):
        if not isinstance(section, yaml.MappingNode):
            return text  # what comes out differs from what was wanted, and is refused
        found = next((pair for pair in section.value if pair[0].value == name), None)
        if found is None:
            return _insert(text, section, path[depth:], value)
        key, inner = found
        if depth == len(path) - 1:
            return _replaced(text, key, inner, _flow(value))
        if isinstance(inner, yaml.ScalarNode) and not inner.value:
            # `training:` with nothing behind it
            return _replaced(text, key, inner, _flow(_nested(path[depth + 1 :], value)))
        section = inner
    return text


def _replaced(text: str, key: yaml.Node, old: yaml.Node, new: str) -> str:
    """The text with a value put where the old one was; after its key, if that spans lines."""
    start, end = old.start_mark.index, _end(old)
    if old.start_mark.line == key.end_mark.line and start < end:
        return text[:start] + new + text[end:]
    colon = text.index(":", key.end_mark.index) + 1
    between = text[colon:start].rstrip() if start < end else ""
    return f"{text[:colon]} {new}{between}{text[max(colon, end) if start < end else colon :]}"


def _end(node: yaml.Node) -> int:
    """Where a value ends, without the blank lines and comments that a block's mark includes."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _insert(text: str, section: yaml.MappingNode, path: tuple[str, ...], value: Any) -> str:
    if section.flow_style:
        start = section.start_mark.index + 1
        comma = ", " if section.value else ""
        return f"{text[:start]}{_flow(_nested(path, value))[1:-1]}{comma}{text[start:]}"
    if section.start_mark.column == 0:
        return text.rstrip("\n") + "\n" + yaml_of(_nested(path, value))
    start = section.start_mark.index
    line = f"{path[0]}: {_flow(_nested(path[1:], value))}\n"
    return text[:start] + line + " " * section.start_mark.column + text[start:]


def _nested(path: tuple[str, ...], value: Any) -> Any:
    for name in reversed(path):
        value = {name: value}
    return value


def _flow(value: Any) -> str:
    """A value as one line of YAML, quoted so that it may stand between brackets too."""
    text = yaml.safe_dump([value], default_flow_style=True, allow_unicode=True, width=100_000)
    return text.strip()[1:-1]


def yaml_of(value: Mapping[str, Any]) -> str:
    """A mapping as YAML; lists stay on one line."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Dumper(yaml.SafeDumper):
    """Sections as blocks, lists on one line."""


_Dumper.add_representer(
    list, lambda dumper, items: dumper.represent_sequence("tag:yaml.org,2002:seq", items, True)
)
