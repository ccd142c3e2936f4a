"""What to call a method in print, where its name on the command line says too much."""

# No code of MoNA's authors is public: what runs here follows its idea.
_PRINTED = {"mona": "MoNA-style"}


def method(name: str) -> str:
    """Name a method, or a variant `NAME@section.name=value`, for tables and figures."""
    plain, *changes = name.split("@")
    return ", ".join([_PRINTED.get(plain, plain), *changes])
