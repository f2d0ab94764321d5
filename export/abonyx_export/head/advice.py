"""Advice for a head whose class cannot be read. This module only has text and never looks into a file.

No advice here tells the user to save an `.npz`. The classifier may have a step before its row of weights, and an .npz
of the row alone would be read without an error, although the step is missing.
"""

from __future__ import annotations

# Classes that can be read: their predict_proba in scikit-learn is p = sigmoid(coef . x + intercept).
LOGISTIC = ("LogisticRegression", "LogisticRegressionCV", "LinearDiscriminantAnalysis")

REFIT = (
    "Fit a LogisticRegression to the same embeddings, alone or in a Pipeline after a StandardScaler, and save it "
    "with joblib.dump; or make a head from the labelled sequences with `abonyx fit`."
)
SAVE_AGAIN = "Copy the file again, or save the fitted classifier again with joblib.dump(classifier, 'head.joblib')."
SAVE_ALONE = (
    "Save the fitted classifier itself: joblib.dump(classifier, 'head.joblib'). If it has a scaler, save "
    "joblib.dump(make_pipeline(scaler, classifier), 'head.joblib')."
)
UNSET = (
    "A parameter of the classifier holds this object; the fitted numbers do not need it. Set this parameter to None, "
    "e.g. classifier.set_params(random_state=None), and save again with joblib.dump."
)
_BEST = "can be read if it is a {classes}, alone or in a Pipeline after StandardScalers. For another class: {refit}"
_SEARCHES = ("GridSearchCV", "RandomizedSearchCV", "HalvingGridSearchCV", "HalvingRandomSearchCV")
_TUNED = ("FixedThresholdClassifier", "TunedThresholdClassifierCV")
_CALIBRATED = ("CalibratedClassifierCV", "_CalibratedClassifier", "_SigmoidCalibration", "IsotonicRegression")
# Modules of scikit-learn whose classes change the embedding before the classifier sees it.
_TRANSFORMERS = (
    *("sklearn.preprocessing", "sklearn.decomposition", "sklearn.feature_selection", "sklearn.compose"),
    *("sklearn.impute", "sklearn.kernel_approximation", "sklearn.random_projection", "sklearn.manifold"),
)


def advice(refused: str, outermost: str | None) -> str:
    """Advice about a class or function that cannot be read.

    Args:
        refused: full name of the class or function.
        outermost: full name of the class of the object in the file, if this class can be read and `refused` is inside
            the object. None = the file holds a container, or `refused` is the object itself.
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
        put = (
            "Replace the search by its best_estimator_: pipeline.steps[-1] = ('head', pipeline[-1].best_estimator_); "
            "save"
        )
        read = f"It can be read if every other step is a StandardScaler and best_estimator_ is a {classes}."
        return f"{put} the pipeline again with joblib.dump. {read} If not: {REFIT}"
    if name in _TUNED and outer is None:
        save = (
            "Save its estimator_ with joblib.dump(model.estimator_, 'head.joblib'), and give its threshold when you "
            "score."
        )
        return f"{save} The estimator_ {best}"
    if name in _CALIBRATED:
        return f"A calibrated probability cannot be computed from one row of weights. {REFIT}"
    if refused.startswith(_TRANSFORMERS):
        return f"The only step that can be read before a classifier is StandardScaler. {REFIT}"
    return REFIT
