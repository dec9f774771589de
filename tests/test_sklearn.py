"""scikit-learn's forms: its own checks of estimators, pipelines, and what is chosen."""

import numpy as np
import pandas
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.feature_selection import SelectKBest, mutual_info_classif
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import parametrize_with_checks

import infomax as im
from infomax.errors import UserError
from infomax.sklearn import MutualInformation, SelectByInformation


@parametrize_with_checks([SelectByInformation(), *(SelectByInformation(2, m) for m in ("mim", "mrmr", "cmim"))])
def test_scikit_learns_own_checks_pass(estimator, check):
    check(estimator)


def test_scores_are_those_of_pairwise_and_rank_as_scikit_learns():
    x, y = load_breast_cancer(return_X_y=True)
    scores, p = MutualInformation()(x, y)
    found = im.pairwise(x, y)
    np.testing.assert_allclose(scores, found.mi[:, 0], atol=1e-5)
    np.testing.assert_allclose(p, found.p_value[:, 0], rtol=1e-3)
    assert np.corrcoef(scores, mutual_info_classif(x, y, random_state=0))[0, 1] > 0.98
    best = SelectKBest(MutualInformation(), k=5).fit(x, y)
    assert set(np.flatnonzero(best.get_support())) == set(np.argsort(scores)[-5:])


def test_it_chooses_what_select_chooses():
    x, y = load_diabetes(return_X_y=True)
    for method in ("mim", "mrmr", "jmi", "cmim"):
        chosen = SelectByInformation(4, method).fit(x, y)
        np.testing.assert_array_equal(chosen.indices_, im.select(x, y, 4, method).indices)
        assert chosen.transform(x).shape == (len(x), 4) and chosen.scores_[0] > 0.1


def test_texts_are_classes_and_names_come_through():
    data = load_breast_cancer(as_frame=True)
    names = data.target_names[data.target]
    chosen = SelectByInformation(3).fit(data.data, names)
    assert list(chosen.get_feature_names_out()) == [data.data.columns[k] for k in sorted(chosen.indices_)]
    np.testing.assert_array_equal(chosen.indices_, SelectByInformation(3).fit(data.data, data.target).indices_)
    assert isinstance(chosen.set_output(transform="pandas").transform(data.data), pandas.DataFrame)


def test_pipelines_and_searches_take_it():
    x, y = load_breast_cancer(return_X_y=True)
    line = make_pipeline(SelectByInformation(5), StandardScaler(), LogisticRegression())
    assert cross_val_score(clone(line), x, y, cv=3).mean() > 0.9
    search = GridSearchCV(line, {"selectbyinformation__method": ["mim", "jmi"]}, cv=2).fit(x, y)
    assert search.best_score_ > 0.9
    x, y = load_diabetes(return_X_y=True)
    assert cross_val_score(make_pipeline(SelectKBest(MutualInformation(), k=4), Ridge(0.1)), x, y, cv=3).mean() > 0.3


def test_xor_needs_pairs():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((600, 20))
    y = (x[:, 3] > 0) ^ (x[:, 8] > 0)
    machine = SVC()
    by_pairs = cross_val_score(make_pipeline(SelectByInformation(2, "jmi"), machine), x, y, cv=3)
    alone = cross_val_score(make_pipeline(SelectByInformation(2, "mim"), machine), x, y, cv=3)
    assert by_pairs.mean() > 0.9 > 0.65 > alone.mean()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"k": 0}, "1 or more"), ({"k": 1.5}, "1 or more"), ({"method": "jim"}, "no method 'jim'")],
)
def test_bad_options_are_a_sentence(options, sentence):
    x, y = load_diabetes(return_X_y=True)
    with pytest.raises(UserError, match=sentence):
        SelectByInformation(**options).fit(x, y)
