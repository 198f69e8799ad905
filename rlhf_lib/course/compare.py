"""Compare a learner's answer with the expected one, and say in a few words what differs."""

import dataclasses
import math
import numbers
from collections.abc import Mapping, Sequence

import torch

SHOWN_VALUES = 24  # tensors up to this many values are printed in full


def difference(got, expected, rtol: float | None = None, atol: float = 1e-5) -> str | None:
    """What differs between two answers, in a few words; None where nothing does.

    Numbers, strings, tensors and (nested) tuples, lists, dicts and dataclasses of them. Strings compare without case
    and spacing. Floating-point precision is free (float64 for float32 is fine); bool, whole and floating numbers are
    told apart in tensors. `rtol` None means 1e-4, and exact for whole numbers.
    """
    if isinstance(expected, str):
        same = isinstance(got, str) and got.split() and _plain(got) == _plain(expected)
        return None if same else f"{describe(got)} is not it"
    if isinstance(expected, torch.Tensor):
        return _tensor_difference(got, expected, 1e-4 if rtol is None else rtol, atol)
    if isinstance(expected, bool | int | float):
        return _number_difference(got, expected, rtol, atol)
    if dataclasses.is_dataclass(expected) and type(got) is type(expected):
        got, expected = vars(got), vars(expected)
    if isinstance(expected, Mapping):
        if not isinstance(got, Mapping) or set(got) != set(expected):
            return f"expected a mapping with the keys {list(expected)}, got {describe(got)}"
        return _first(((f"at {key!r}", got[key], expected[key]) for key in expected), rtol, atol)
    if isinstance(expected, Sequence):
        if isinstance(got, str) or not isinstance(got, Sequence | torch.Tensor):
            return f"expected {len(expected)} values together (a tuple or list), got {describe(got)}"
        if len(got) != len(expected):
            return f"expected {len(expected)} values, got {len(got)}"
        parts = ((f"value {i + 1}", got[i], expected[i]) for i in range(len(expected)))
        return _first(parts, rtol, atol)
    return None if got is expected or got == expected else f"{describe(got)} is not it"


def describe(value) -> str:
    """A value in one short line: small tensors in full, large ones by type and shape."""
    if isinstance(value, torch.Tensor):
        kind = f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
        if value.numel() > SHOWN_VALUES:
            return kind
        shown = value.detach().cpu()
        values = _rounded((shown.int() if shown.dtype == torch.bool else shown).tolist())
        return f"{values}" + ("" if value.is_floating_point() else f" ({kind.split()[0]})")
    if isinstance(value, str):
        return repr(value if len(value) <= 80 else value[:77] + "...")
    if isinstance(value, bool | int | float):
        return str(_rounded(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(item)}" for key, item in list(value.items())[:8]) + "}"
    if isinstance(value, list | tuple):
        shown = ", ".join(describe(item) for item in value[:8]) + (", ..." if len(value) > 8 else "")
        return f"({shown})" if isinstance(value, tuple) else f"[{shown}]"
    if callable(value):
        return f"the function {getattr(value, '__name__', type(value).__name__)}"
    return repr(value) if len(repr(value)) <= 80 else f"a {type(value).__name__}"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _rounded(value):
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


def _first(parts, rtol, atol) -> str | None:
    """The first difference among (name, got, expected) parts."""
    for name, got, expected in parts:
        found = difference(got, expected, rtol, atol)
        if found:
            return f"{name}: {found}"
    return None


def _number_difference(got, expected, rtol, atol) -> str | None:
    if isinstance(got, torch.Tensor) and got.numel() == 1:
        got = got.item()
    if isinstance(expected, bool):
        wrong_kind = None if isinstance(got, bool) else "True or False"
    else:
        wrong_kind = "a number" if isinstance(got, bool) or not isinstance(got, numbers.Real) else None
    if wrong_kind:
        return f"expected {wrong_kind}, got {describe(got)}"
    if isinstance(expected, int) and rtol is None:
        same = got == expected
    else:
        same = math.isclose(got, expected, rel_tol=1e-4 if rtol is None else rtol, abs_tol=atol)
    return None if same else f"{describe(got)} is not it"


def _tensor_difference(got, expected: torch.Tensor, rtol: float, atol: float) -> str | None:
    try:
        got = torch.as_tensor(got).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return f"expected a tensor of shape {list(expected.shape)}, got {describe(got)}"
    expected = expected.detach().cpu()
    if got.shape != expected.shape:
        return f"the shape is {list(got.shape)} where {list(expected.shape)} is expected"
    if _kind(got) != _kind(expected):
        return f"a {str(got.dtype).removeprefix('torch.')} tensor, where one of {_kind(expected)} is expected"
    if not expected.is_floating_point():
        wrong = got != expected
    else:
        got, expected = got.double(), expected.double()
        if got.isnan().any() and not expected.isnan().any():
            return f"{int(got.isnan().sum())} of {got.numel()} values are NaN"
        wrong = ~torch.isclose(got, expected, rtol=rtol, atol=atol, equal_nan=True)
    if not wrong.any():
        return None
    where = [int(i) for i in wrong.nonzero()[0]]
    place = f", the first at {where}" if where else ""
    return f"{int(wrong.sum())} of {wrong.numel()} values differ{place}" if where else "the value differs"


def _kind(tensor: torch.Tensor) -> str:
    if tensor.dtype == torch.bool:
        return "True and False"
    return "floating-point numbers" if tensor.is_floating_point() else "whole numbers"
