"""Wall-clock seconds of a run by stage, with compilation counted apart."""

import contextlib
import time

import jax

_COMPILE_EVENTS = (
    "/jax/core/compile/jaxpr_trace_duration",
    "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "/jax/core/compile/backend_compile_duration",
)


class Clock:
    """Seconds by stage; a resumed run adds to what it had.

    `compile` sums what JAX reports for tracing, lowering and compiling (or reading the
    persistent cache) and is taken out of the stage in which it happened.
    """

    def __init__(self):
        """Start counting."""
        self.seconds = {"total": 0.0, "compile": 0.0}
        self._last = time.monotonic()
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, seconds: float, **_) -> None:
        if event in _COMPILE_EVENTS:
            self.seconds["compile"] += seconds

    @contextlib.contextmanager
    def stage(self, name: str):
        """Count the seconds of a block under a name."""
        start, compiled = time.monotonic(), self.seconds["compile"]
        try:
            yield
        finally:
            spent = time.monotonic() - start - (self.seconds["compile"] - compiled)
            self.seconds[name] = self.seconds.get(name, 0.0) + max(spent, 0.0)

    def read(self) -> dict[str, float]:
        """Return the seconds so far, `total` brought up to now."""
        now = time.monotonic()
        self.seconds["total"] += now - self._last
        self._last = now
        return dict(self.seconds)

    def resume(self, seconds: dict[str, float]) -> None:
        """Add the seconds of an earlier process of the same run."""
        for name, value in seconds.items():
            self.seconds[name] = self.seconds.get(name, 0.0) + value
