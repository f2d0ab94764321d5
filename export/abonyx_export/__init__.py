"""Export of an ESM checkpoint and a logistic head to an abonyx bundle. It needs the optional extra `export`."""
