"""Colours of the pictures."""

from __future__ import annotations

from typing import Final

# Okabe & Ito: eight colours that people with colour vision deficiencies can tell apart, also on a dark ground.
PALETTE: Final = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#f0e442", "#999999")
