"""What somebody can do whose head is of a class that is not read. Text alone: nothing here looks into a file.

Never `.npz`: nobody knows here whether a step stands before the row of weights, and an .npz of the row alone would be
read without a word.
"""

from __future__ import annotations

# What is read, by the class's last name: p = sigmoid(coef . x + intercept) in scikit-learn's own predict_proba.
LOGISTIC = ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis")

REFIT = (
    "Refit a LogisticRegression on the same embeddings, alone or in a Pipeline behind a StandardScaler, and save it "
    "with joblib.dump; or let `abonyx fit` make a head from the labelled sequences."
)
SAVE_AGAIN = "Copy the file again, or save the fitted classifier again with joblib.dump(classifier, 'head.joblib')."
SAVE_ALONE = (
    "Save the fitted classifier itself: joblib.dump(classifier, 'head.joblib'); if a scaler stands before it, "
    "joblib.dump(make_pipeline(scaler, classifier), 'head.joblib')."
)
UNSET = (
    "A parameter of the classifier holds it, and the fitted numbers do not need it: set that parameter to None, "
    "classifier.set_params(random_state=None), say, and save again with joblib.dump."
)
_BEST = "is read if it is a {classes}, alone or in a Pipeline behind StandardScalers. If it is another class: {refit}"
_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")
_TUNED = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")
_CALIBRATED = ("CalibratedClassifierCV", "_CalibratedClassifier", "_SigmoidCalibration", "IsotonicRegression")
# Modules of scikit-learn whose classes change the embedding before the classifier sees it.
_TRANSFORMERS = (
    *("sklearn.preprocessing", "sklearn.decomposition", "sklearn.feature_selection", "sklearn.compose"),
    *("sklearn.impute", "sklearn.kernel_approximation", "sklearn.random_projection", "sklearn.manifold"),
)


def advice(refused: str, outermost: str | None) -> str:
    """What to do about a class or function that is not read.

    Args:
        refused: its full name.
        outermost: the full name of the class of the object that the file holds, if that is one that is read; it then
            holds `refused` somewhere. None = a container, or `refused` itself.
    """
    name, outer = refused.rpartition(".")[2], outermost and outermost.rpartition(".")[2]
    classes = " or ".join((", ".join(LOGISTIC[:-1]), LOGISTIC[-1]))
    best = _BEST.format(classes=classes, refit=REFIT)
    if outer in LOGISTIC or refused.startswith("numpy.random."):
        return UNSET
    if name in _SEARCHES and outer is None:
        save = "Save its best_estimator_: joblib.dump(search.best_estimator_, 'head.joblib'). It"
        return f"{save} {best}"
    if name in _SEARCHES and outer == "Pipeline":
        put = "Put its best_estimator_ in its place: pipeline.steps[-1] = ('head', pipeline[-1].best_estimator_); save"
        read = f"It is read if every other step is a StandardScaler and best_estimator_ is a {classes}."
        return f"{put} the pipeline again with joblib.dump. {read} If not: {REFIT}"
    if name in _TUNED and outer is None:
        save = (
            "Save its estimator_, joblib.dump(model.estimator_, 'head.joblib'), and give its threshold when you score."
        )
        return f"{save} The estimator_ {best}"
    if name in _CALIBRATED:
        return f"A calibrated probability is not that of one row of weights. {REFIT}"
    if refused.startswith(_TRANSFORMERS):
        return f"Of the steps before a classifier, StandardScaler alone is read. {REFIT}"
    return REFIT
