"""Settings of older versions, whose work another does now, such as one for all seeds or precisions."""

from collections.abc import Mapping
from typing import Any

from meddiff.errors import MeddiffError
from meddiff.params import MASK_RANDOMNESS

_SWITCHES = {f"mask_{level}": level for level in MASK_RANDOMNESS}
_GONE = {  # what stands in their place -> the settings of before
    "prepare.seed": ("prepare.demo_seed", *(f"{section}.seed" for section in (
        "foundation", "backgrounds", "mask_model", "finetune", "generate", "filter", "evaluate", "tune"))),
    "compute.precision": tuple(f"{section}.precision" for section in ("backgrounds", "finetune", "generate", "segment")),
    "tune.space": tuple(f"tune.{name}" for name in ("guidance_scale", "similarity_low", "similarity_high", "corrosion_radius")),
    "generate.mask_randomness": tuple(f"generate.{name}" for name in _SWITCHES),
    "compute.cluster": ("benchmark.workers",),
}


def refuse_outdated(values: Mapping[str, Any], where: object) -> None:
    """Name all settings of older versions at once.

    Raises:
        MeddiffError: there is one.
    """
    there = {new: [f"`{key}`" for key in old if _has(values, key)] for new, old in _GONE.items()}
    if any(there.values()):
        rule = "; ".join(f"`{new}` does now what {', '.join(old)} did" for new, old in there.items() if old)
        raise MeddiffError(where, rule, "Run `meddiff params --upgrade`, which keeps the values that you have changed")


def upgraded(values: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Settings of an older version in today's words, and a line for each that can't be kept."""
    new = {section: dict(own) for section, own in values.items()}
    old = {name: {key: new[section].pop(field) for key in keys if _has(values, key) for section, _, field in [key.partition(".")]}
           for name, keys in _GONE.items()}
    seed, precisions = new.get("prepare", {}).get("seed", 0), set(old["compute.precision"].values())
    lost = [f"{key} was {value}: prepare.seed is {seed}" for key, value in old["prepare.seed"].items()
            if value != (0 if key == "prepare.demo_seed" else seed)]
    lost += [f"{key} was {value}: see tune.space" for key, value in old["tune.space"].items()]
    lost += [f"{key} was {value}: `meddiff benchmark --workers {value}`" for key, value in old["compute.cluster"].items()
             if value != 1]
    if precisions == {"bfloat16"}:
        new.setdefault("compute", {}).setdefault("precision", "bfloat16")
    elif "bfloat16" in precisions:
        lost.append("bfloat16 stood in some sections alone: compute.precision is auto")
    if switches := {_SWITCHES[key.partition(".")[2]]: on for key, on in old["generate.mask_randomness"].items()}:
        new["generate"].setdefault("mask_randomness", [level for level in MASK_RANDOMNESS if switches.get(level, True)])
    return new, lost


def _has(values: Mapping[str, Any], key: str) -> bool:
    section, _, name = key.partition(".")
    own = values.get(section)
    return isinstance(own, Mapping) and name in own
