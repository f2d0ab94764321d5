"""Download bundles from the Hugging Face hub into abonyx's cache, and upload them. Needs the extra `hub`."""
