"""What a user can plug in from outside: mmengine registries, and the check of an entry's arguments."""

import difflib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

from mmengine.registry import Registry

from etad.spec import Entry, SpecError

DATASETS = Registry(
    "dataset",
    scope="etad",
    locations=["etad.data.sources", "etad.data.synthetic", "etad.data.videos", "etad.data.synthetic_videos"],
)
SAMPLERS = Registry("sampler", scope="etad", locations=["etad.proposals"])
AGGREGATORS = Registry("aggregator", scope="etad", locations=["etad.model.aggregation"])
ENCODERS = Registry("encoder", scope="etad", locations=["etad.model.encoder"])
SNIPPET_SAMPLERS = Registry("snippet sampler", scope="etad", locations=["etad.gradients"])


def lookup(registry: Registry, entry: Entry, given: tuple[str, ...] = ()) -> Callable[..., Any]:
    """The callable that `entry` names, its arguments checked against the signature.

    A name `package.module:object` is imported instead, so that a user's own component needs no registration.
    `given` are the parameters that the suite fills in itself. Raises SpecError.
    """
    if ":" in entry.name:
        module, _, attribute = entry.name.partition(":")
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise SpecError(f"{registry.name} {entry.name}: {error}") from None
        if not callable(found):
            raise SpecError(f"{registry.name} {entry.name}: that is no function or class")
    else:
        registry.import_from_location()
        found = registry.get(entry.name)
    if found is None:
        known = sorted(registry.module_dict)
        near = difflib.get_close_matches(entry.name, known, 1)
        raise SpecError(
            f"no {registry.name} named {entry.name!r}"
            + (f"; did you mean {near[0]}?" if near else f"; known: {', '.join(known)}")
        )
    parameters = inspect.signature(found).parameters
    free = [p for p in parameters if p not in given and parameters[p].kind is inspect.Parameter.KEYWORD_ONLY]
    for key in entry.args:
        if key not in free:
            near = difflib.get_close_matches(key, free, 1)
            raise SpecError(
                f"{registry.name} {entry.name} takes no argument {key!r}"
                + (f"; did you mean {near[0]}?" if near else f"; it takes: {', '.join(free) or 'none'}")
            )
    missing = [p for p in free if parameters[p].default is inspect.Parameter.empty and p not in entry.args]
    if missing:
        raise SpecError(f"{registry.name} {entry.name} needs the argument {', '.join(missing)}")
    return found
