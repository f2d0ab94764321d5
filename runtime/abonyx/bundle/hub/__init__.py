"""Bundles by name: fetched from the Hugging Face hub into abonyx's cache, and pushed there. Needs the extra `hub`."""
