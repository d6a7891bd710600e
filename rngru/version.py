"""Which rngru this is, and whether it is as new as a file asks for.

>>> isolder("0.1.0", "0.1"), isolder("0.9", "0.10")
(False, True)
"""

import re

__version__ = "0.1.0"


def isolder(version: str, needed: object) -> bool:
    """Whether ``version`` comes before ``needed``; what is not a version number asks for nothing."""
    if not isinstance(needed, str) or not re.fullmatch(r"\d{1,9}(\.\d{1,9}){0,9}", needed):
        return False
    one, other = ([int(part) for part in each.split(".")] for each in (version, needed))
    return one < other
