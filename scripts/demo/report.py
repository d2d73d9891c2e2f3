"""The demo's last words: one table."""

from story import GUARDED, ONNX, TFLITE, Facts


def table(facts: Facts, seconds: float) -> str:
    """Return the table of what was measured."""
    saved = 1 - facts.transferred / facts.full
    served = ", ".join(f"{version}: {count}" for version, count in sorted(facts.served.items()))
    rows = [
        ("Bytes of 1.1.0, full", f"{facts.full:,} for three devices"),
        ("Bytes of 1.1.0, diff", f"{facts.transferred:,} ({saved:.0%} saved)"),
        (
            "Publish to all committed",
            f"{facts.seconds_to_all:.1f} s (one device was cut off for {facts.seconds_cut:.1f} s)",
        ),
        ("Requests served", f"{sum(facts.served.values()):,} ({served})"),
        ("Requests failed", str(facts.failed)),
        *(
            (
                f"Accuracy, {GUARDED}, {target}",
                " -> ".join(f"{facts.accuracy[f'{v} {target}']:.2%}" for v in ("1.0.0", "1.1.0")),
            )
            for target in (ONNX, TFLITE)
        ),
        *((f"Refused: {what}", why) for what, why in facts.refusals),
        ("Broker", facts.broker),
        ("Seconds in all", f"{seconds:.0f}"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)
