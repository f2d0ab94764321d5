"""Export of an ESM checkpoint and a logistic head to an abonyx bundle. Needs the extra [export]."""
