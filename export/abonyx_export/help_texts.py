"""Help texts of options that export, fit and calibrate share."""

from __future__ import annotations

LABEL_HELP = "Column of classes or measured values."
NAME_HELP = "Name of the new bundle.  [default: the name of its directory]"
NOTICE_HELP = "One line shown wherever the bundle is named.  [default: the old bundle's]"
CACHE_HELP = "Directory that keeps embeddings for later commands.  [default: in the user's cache]"
