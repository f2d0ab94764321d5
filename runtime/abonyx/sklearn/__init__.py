"""Estimators for scikit-learn (extra `evaluate`): embeddings as features, and the scores of a head.

from abonyx.sklearn import Embedder

model = make_pipeline(Embedder(), LogisticRegression())
cross_val_score(model, sequences, labels, scoring="roc_auc")
"""

from abonyx.extras import require

require("abonyx.sklearn")

from abonyx.sklearn.embedder import Embedder  # noqa: E402  # scikit-learn is there
from abonyx.sklearn.scorer import Scorer  # noqa: E402

__all__ = ["Embedder", "Scorer"]
