"""What a search tries of each setting: its axes, and the trial's values on them as they are run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna

from meddiff.errors import MeddiffError
from meddiff.layout import Layout
from meddiff.params import Params, SearchRange
from meddiff.params.file import parse_params
from meddiff.params.overrides import merged, nested, setting

Value = int | float | str
_SECTIONS = ("foundation", "backgrounds", "mask_model", "finetune", "generate", "filter", "segment")
_MEASURE = ("segment.arms", "segment.seeds", "segment.empty_arms")  # by which trials are compared
_SAFETY = ("filter.keep_copies",)
COPIES = "filter.similarity_high"  # may be tightened, never loosened


@dataclass(frozen=True)
class Axis:
    """A setting that is searched.

    Attributes:
        key: `section.name`.
        range: what is tried; `choices` hold the value with which the study began, too.
        whole: whether it takes whole numbers alone.
    """

    key: str
    range: SearchRange
    whole: bool

    def suggest(self, trial: optuna.Trial, current: Value | None) -> Value:
        """The trial's value; with `current`, which the first trial has, the range is widened to hold it, on its grid or not."""
        own = self.range
        if own.choices:
            return self._exact(trial.suggest_categorical(self.key, list(own.choices)))
        low, high, step = float(own.low or 0), float(own.high or 0), own.step
        if current is not None:
            low, high, step = min(low, float(current)), max(high, float(current)), None
        if self.whole:
            return int(trial.suggest_int(self.key, int(low), int(high), step=int(step or 1), log=own.log))
        value = float(trial.suggest_float(self.key, low, high, step=step, log=own.log))
        return value if current is not None else float(f"{value:.6g}")

    def _exact(self, value: Value) -> Value:
        return int(value) if self.whole and not isinstance(value, str) else value


def axes_of(layout: Layout, params: Params, begun_with: Mapping[str, Value]) -> list[Axis]:
    """The axes of `tune.space`.

    Args:
        layout: the project, for error messages.
        params: the settings.
        begun_with: `section.name` -> value when the study began.

    Raises:
        MeddiffError: a setting that isn't there, or isn't to be searched; a range that goes beyond what the setting allows; the
            filter's bounds could cross.
    """
    axes = []
    for key, own in params.tune.space.items():
        where = f"{layout.params}: tune.space.{key}"
        axis = Axis(key, _bounded(key, own, begun_with[key]), isinstance(_default(key, where), int))
        for value in own.choices or (own.low, own.high):
            parse_params(merged(params, nested({key: axis._exact(value or 0)})), where)
        axes.append(axis)
    lows, highs = (_ends(axes, params, name) for name in ("filter.similarity_low", COPIES))
    if max(lows) >= min(highs):
        raise MeddiffError(f"{layout.params}: tune.space.filter.similarity_low",
                           f"its range must end below that of similarity_high, which begins at {min(highs)}", "Lower its end")
    return axes


def current_values(layout: Layout, params: Params) -> dict[str, Value]:
    """`section.name` -> value of the settings that are searched.

    Raises:
        MeddiffError: a setting isn't there, or isn't to be searched.
    """
    values: dict[str, Value] = {}
    for key, own in params.tune.space.items():
        where = f"{layout.params}: tune.space.{key}"
        _default(key, where)
        values[key] = setting(params, key)
        if isinstance(values[key], str) and not own.choices:
            raise MeddiffError(where, f"the value of today, `{values[key]}`, is no number", "Name `choices`, this one among them")
        if own.log and not own.choices and float(values[key]) <= 0:
            raise MeddiffError(where, f"on a logarithmic range the value of today, {values[key]}, can't lie", "Set `log: false`")
    return values


def _default(key: str, where: str) -> Any:
    section, _, name = key.partition(".")
    if key in _MEASURE or key in _SAFETY or section not in _SECTIONS:
        why = "switches a safety rule off" if key in _SAFETY else "is what trials are measured with"
        raise MeddiffError(where, f"a setting that {why} isn't searched",
                           f"Choose others of the sections {', '.join(_SECTIONS)}")
    default = getattr(getattr(Params(), section), name, None)
    if isinstance(default, bool) or not isinstance(default, int | float | str):
        raise MeddiffError(where, "there must be such a setting, and it must be a number or a word",
                           "`meddiff params` lists the settings")
    return default


def _bounded(key: str, own: SearchRange, current: Value) -> SearchRange:
    """The range that is tried: choices with the present one among them; of the bound of copies none that would loosen it."""
    if own.choices:
        tried = own.choices if current in own.choices else (*own.choices, current)
        return own.model_copy(update={"choices": tuple(c for c in tried if key != COPIES or float(c) <= float(current))})
    low, high = float(own.low or 0), float(own.high or 0)
    if key == COPIES:
        high = min(high, float(current))
        low = min(low, high)
    if own.step:
        high = low + math.floor((high - low) / own.step + 1e-6) * own.step
    return own.model_copy(update={"low": low, "high": float(f"{high:.9g}")})


def _ends(axes: Sequence[Axis], params: Params, key: str) -> list[float]:
    for axis in axes:
        if axis.key == key:
            return [float(each or 0) for each in axis.range.choices or (axis.range.low, axis.range.high)]
    return [float(setting(params, key))]
