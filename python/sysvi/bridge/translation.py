"""Messages of the Python package in the words of R."""

from __future__ import annotations

import re

REPLACEMENTS = (
    (r"adata\.X is empty\.", "There is no expression."),
    (r"^adata\.X\b|(?<=\. )adata\.X\b", "The expression"),
    (r"\badata\.X\b", "the expression"),
    (r"\bsysvi\.prepare \(--fractional-counts on the command line\)", "PrepareSystems()"),
    (r"\bsysvi\.map_query or sysvi\.extend_model \(--fractional-counts on the command line\)", "MapSysVI()"),
    (r"(?:\b(?:adata|reference|query)\.)?obsm?\['(.*?)'\]", r"'\1'"),
    (r"\b(reference|query)\.obs\b", r"the metadata of the \1"),
    (r"name the column of adata\.obs with the donors \(batch_key\)", "name the donors (donor)"),
    (r", or name the one with the new gene names \(argument target\)", " in the table"),
    (r"\b(\w+)_key\b", r"\1"),
    (r"=True\b", " = TRUE"),
    (r"\bn_samples_overall\b", "n_samples"),
    (r'run pip install "sysvi\[report\]"', "run sysvi_install() and restart R"),
    (r"\bsysvi\.save_reference\b", "SaveReferenceSysVI()"),
    (r"\bsysvi\.tune\b", "TuneSysVI()"),
    (
        r"sysvi\.extend_model first, and use the model that this returns",
        "MapSysVI() first, and use its result as reference",
    ),
    (r"\bsysvi\.map_query\b", "MapSysVI()"),
    (r"(?:\bsysvi\.)?\bmap_orthologs\b", "PrepareSystems()"),
)


def translate_for_r(text: str) -> str:
    """Replace names of Python objects and arguments in a message by those of R.

    Examples
    --------
    >>> translate_for_r("adata.obs['age'] (label_key) is missing: compare settings with sysvi.tune.")
    "'age' (label) is missing: compare settings with TuneSysVI()."
    >>> translate_for_r("adata.X is zero. No gene of adata.X is seen.")
    'The expression is zero. No gene of the expression is seen.'
    """
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    return text
