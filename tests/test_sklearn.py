"""scikit-learn's forms: its own checks of estimators, pipelines, and what is chosen."""

import numpy as np
import pandas
import pytest
import torch
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
from infomax.sklearn import InfoMaxEncoder, MutualInformation, SelectByInformation


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


# An encoder -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@parametrize_with_checks([InfoMaxEncoder(width=16, dims=4, epochs=2, batch_size=32)])
def test_an_encoder_passes_scikit_learns_own_checks(estimator, check):
    check(estimator)


def planted(n: int = 600):
    """Twenty columns of one hidden sign each row, and noise: what columns share says the class."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, n)
    return rng.normal(size=(n, 20)) + np.where(y, 1.0, -1.0)[:, None] * rng.normal(size=20), y


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["InfoNCE", "SMILE(tau=5)", im.NWJ()])
def test_features_without_labels_say_the_class(objective):
    x, y = planted()
    encoder = InfoMaxEncoder(objective, width=32, dims=8, epochs=20, batch_size=100)
    assert cross_val_score(make_pipeline(encoder, LogisticRegression()), x, y, cv=3).mean() > 0.95
    found = clone(encoder).fit(x).information_
    assert len(found) == 20 and found[-3:].mean() > found[:3].mean() + 0.1


def test_an_encoder_is_reproducible_and_leaves_the_random_state():
    x, y = planted(60)
    before = torch.get_rng_state()
    first, second, other = (InfoMaxEncoder(width=8, dims=3, epochs=2, seed=s).fit(x) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    features = first.transform(x)
    assert features.shape == (60, 3) and features.dtype == np.float64
    np.testing.assert_array_equal(features, second.fit(x, y).transform(x))
    assert not np.allclose(features, other.transform(x))
    np.testing.assert_allclose(first.transform(x[7:8]), features[7:8], atol=1e-10)
    assert list(first.get_feature_names_out()) == ["infomaxencoder0", "infomaxencoder1", "infomaxencoder2"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"objective": "InfoNC"}, "'InfoNC'. Did you mean 'InfoNCE'"),
        ({"width": 0}, "width is 0: give a whole number, 1 or more"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": 1}, "batch_size is 1: give a whole number, 2 or more"),
        ({"dims": True}, "dims is True"),
        ({"seed": -1}, "seed is a whole number"),
    ],
)
def test_an_encoder_refuses_what_it_cannot_use(options, sentence):
    with pytest.raises(UserError, match=sentence):
        InfoMaxEncoder(**options).fit(planted(60)[0])
