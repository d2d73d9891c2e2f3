"""Float forms and ranges of activations that earlier runs made of the same model and data."""

import hashlib
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from edgec_compiler.cache.keys import key_of
from edgec_compiler.cache.store import Entry, Store
from edgec_compiler.convert.to_tflite import FloatTflite
from edgec_compiler.forms import Forms, MadeForms, RangesKey
from edgec_compiler.quantise.clipping import Range, Scheme


@dataclass(frozen=True, slots=True)
class FloatCache:
    """The forms of one run's model. Not for a model made by a program: nobody knows what it reads.

    Attributes:
        store: where they lie.
        calibration: the digest of the calibration data as it was before it was read; None if it
            is not known, or there is none.
    """

    store: Store
    calibration: str | None

    def recall(self, forms: Forms, fmt: str) -> bool:
        """Let `forms` take over what is kept; return whether its `fmt` form is among that."""
        entry = self.store.get(_form_key(forms, fmt))
        made = None if entry is None else _form(fmt, entry)
        if made is None or entry is None:
            return False
        forms.adopt(made)
        if self.calibration is not None:
            ranges = self._ranges_of(forms, fmt, entry.blobs["model"])
            forms.adopt(MadeForms(None, None, ranges or {}, {}, None))
        return True

    def keep(self, forms: Forms, fmt: str) -> None:
        """Keep the `fmt` form, and its ranges, if there are any."""
        made = forms.made()
        tflite = made.tflite or FloatTflite(b"", (), ())
        payload = tflite.payload if fmt == "tflite" else made.onnx
        if not payload:
            return
        facts = {
            "passes": forms.passes_for(fmt),
            "moved": [list(tflite.moved_inputs), list(tflite.moved_outputs)],
        }
        key = _form_key(forms, fmt)
        if self.store.get(key) is None:
            self.store.put(key, Entry(facts, {"model": payload}))
        own = {key: found for key, found in made.ranges.items() if key[0] == fmt}
        if self.calibration is None or not own or own == self._ranges_of(forms, fmt, payload):
            return
        ranges = [
            [method, list(astuple(scheme)), {name: list(one) for name, one in found.items()}]
            for (_, method, scheme), found in own.items()
        ]
        self.store.put(self._ranges_key(forms, fmt, payload), Entry({"ranges": ranges}, {}))

    def _ranges_key(self, forms: Forms, fmt: str, payload: bytes) -> str:
        form = hashlib.sha256(payload).hexdigest()
        way = repr(forms.interface)  # from the raw data to the form's inputs
        data = self.calibration
        return key_of("ranges", form=form, format=fmt, interface=way, calibration=data)

    def _ranges_of(
        self, forms: Forms, fmt: str, payload: bytes
    ) -> Mapping[RangesKey, Mapping[str, Range]] | None:
        entry = self.store.get(self._ranges_key(forms, fmt, payload))
        try:
            return None if entry is None else _ranges(fmt, entry.facts["ranges"])
        except (KeyError, TypeError, ValueError):
            return None


def _form_key(forms: Forms, fmt: str) -> str:
    source = forms.source
    content = source.sha256
    if source.payload is not None:
        content = hashlib.sha256(source.payload).hexdigest()
    ends = [repr(source.inputs), repr(source.outputs), source.channels_last]
    return key_of("form", source=[source.format, content], ends=ends, format=fmt)


def _form(fmt: str, entry: Entry) -> MadeForms | None:
    match entry.facts, entry.blobs:
        case {"passes": dict(passes), "moved": [list(inputs), list(outputs)]}, {"model": payload}:
            if fmt == "onnx":
                return MadeForms(None, payload, {}, passes, None)
            form = FloatTflite(payload, tuple(inputs), tuple(outputs))
            return MadeForms(form, None, {}, passes, None)
    return None


def _ranges(fmt: str, kept: list[Any]) -> dict[RangesKey, dict[str, Range]]:
    return {
        (fmt, str(method), Scheme(*scheme)): {
            str(name): (float(low), float(high)) for name, (low, high) in found.items()
        }
        for method, scheme, found in kept
    }
