"""Messages of the Python package in the words of R."""

from __future__ import annotations

import re

REPLACEMENTS = (
    (r"adata\.X is empty\.", "There is no expression."),
    (r"(?:adata\.)?obsm?\['(.*?)'\]", r"'\1'"),
    (r"\b(\w+)_key\b", r"\1"),
    (r"=True\b", " = TRUE"),
    (r"\bsysvi\.tune\b", "TuneSysVI()"),
)


def translate_for_r(text: str) -> str:
    """Replace names of Python objects and arguments in a message by those of R.

    Examples
    --------
    >>> translate_for_r("adata.obs['age'] (label_key) is missing: compare settings with sysvi.tune.")
    "'age' (label) is missing: compare settings with TuneSysVI()."
    """
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return text
