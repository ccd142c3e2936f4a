"""Names of methods: on the command line, with what a variant changes, and in print."""

# No code of MoNA's authors is public: what runs here follows its idea.
_PRINTED = {"mona": "MoNA-style"}


def split(method: str) -> tuple[str, list[str]]:
    """Split a variant `NAME@section.name=value@...` into NAME and its changes."""
    name, *changes = method.split("@")
    return name, changes


def method(method: str) -> str:
    """Name a method or a variant of one for tables and figures."""
    name, changes = split(method)
    return ", ".join([_PRINTED.get(name, name), *changes])
