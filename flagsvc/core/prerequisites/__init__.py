"""Prerequisites: a flag is as if disabled unless other flags of its set have one of the variants that it names.

`definition` reads and checks the field of a flag, `graph` orders flags that depend on one another, and `checks` decides
which dependencies may be stored. `core.family` evaluates.
"""

from .definition import (
    FIELD,
    MAX_DEPTH,
    MAX_PREREQUISITES,
    BadPrerequisites,
    Prerequisite,
    keys_in,
    prerequisites_of,
    to_json,
    violations,
)
from .graph import Cycle, NoOrder, TooDeep, children_in, descendants, order_of

__all__ = [
    "FIELD",
    "MAX_DEPTH",
    "MAX_PREREQUISITES",
    "BadPrerequisites",
    "Cycle",
    "NoOrder",
    "Prerequisite",
    "TooDeep",
    "children_in",
    "descendants",
    "keys_in",
    "order_of",
    "prerequisites_of",
    "to_json",
    "violations",
]
