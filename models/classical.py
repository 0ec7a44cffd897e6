"""Classifiers of scikit-learn on the spectra of single pixels, fitted at once instead of trained in epochs."""

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from models.base import SpectrumClassifier
from models.options import ModelOptions

FOLDS = 5  # of the cross-validation that chooses settings
NEIGHBOURS = (1, 3, 5, 10, 20)
SMALLEST = 1e-12  # of a probability, whose logarithm is taken


class Classical(SpectrumClassifier):
    """Base class: subclasses make the estimator, and say how probabilities come from it.

    The state is what it was fitted to, training spectra, their classes and the seed, and which settings were chosen;
    loading it fits once more, to the same bits. So a checkpoint holds no object of scikit-learn.

    Args:
        n_bands, n_classes, patch_size: sizes of the task; the centre pixel alone is looked at.
        options: none.
    """

    def __init__(self, n_bands: int, n_classes: int, patch_size: int, options: ModelOptions):
        super().__init__(n_bands, n_classes, patch_size, options)
        self.register_buffer("spectra", torch.empty(0, n_bands))
        self.register_buffer("labels", torch.empty(0, dtype=torch.int64))
        self.register_buffer("seed", torch.tensor(0))
        if self.grid():  # the number of the chosen combination in ParameterGrid; -1 if there was nothing to choose
            self.register_buffer("chosen", torch.tensor(-1))
        self.fitted: Any = None  # stays None if there is one class, which is then the answer

    def estimator(self) -> Any:
        """Make the estimator."""
        raise NotImplementedError

    def grid(self) -> dict[str, list]:
        """Give the settings from which cross-validation on the training pixels chooses, with their values.

        Checkpoints hold the number of a combination, so the order must stay.
        """
        return {}

    @property
    def n_combinations(self) -> int:
        """How many combinations of settings there are to choose from; 0 if nothing is chosen."""
        grid = self.grid()
        return math.prod(map(len, grid.values())) if grid else 0

    def scores(self, spectra: np.ndarray) -> np.ndarray:
        """Give the logits of the classes that were fitted, (n, number of them), for spectra (n, n_bands)."""
        return np.log(np.maximum(self.fitted.predict_proba(spectra), SMALLEST))

    def fit(self, spectra: Tensor, labels: Tensor, seed: int, chosen: int | None = None) -> None:
        """Fit to training spectra (n, n_bands) and their classes 0..K-1, (n,).

        Args:
            spectra, labels, seed: as said.
            chosen: the combination of settings that was chosen before, -1 for none; None searches for it.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.model_selection import GridSearchCV, ParameterGrid, StratifiedKFold

        self.spectra, self.labels, self.seed = spectra.detach().clone(), labels.clone(), torch.tensor(seed)
        x, y = spectra.cpu().numpy().astype(np.float64), labels.cpu().numpy()
        if len(np.unique(y)) == 1:
            return
        estimator = self.estimator()
        if self.grid() and chosen is None:  # folds such that two classes or more are in each part
            n_folds = min(FOLDS, int(np.sort(np.bincount(y, minlength=2))[-2]))
            if n_folds > 1:
                folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
                estimator = GridSearchCV(estimator, self.grid(), cv=folds)
        elif chosen is not None and chosen >= 0:
            estimator.set_params(**ParameterGrid(self.grid())[chosen])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=ConvergenceWarning)
            warnings.filterwarnings("ignore", message="The least populated class")  # it is in fewer folds
            self.fitted = estimator.fit(x, y)
        if self.grid():
            self.chosen = torch.tensor(getattr(self.fitted, "best_index_", -1 if chosen is None else chosen))

    def load_state_dict(self, state_dict, *_, **__):
        """Fit again to what a checkpoint holds; an older one does not say what was chosen."""
        chosen = {"chosen": int(state_dict["chosen"])} if "chosen" in state_dict else {}
        self.fit(state_dict["spectra"].to(self.spectra.device), state_dict["labels"], int(state_dict["seed"]), **chosen)

    @property
    def n_parameters(self) -> int | None:
        best = getattr(self.fitted, "best_estimator_", self.fitted)
        return best.coef_.size + best.intercept_.size if hasattr(best, "coef_") else None

    def classify(self, spectra: Tensor) -> Tensor:
        known = self.labels.unique().cpu().numpy()  # sorted, as scikit-learn has them
        logits = np.full((len(spectra), self.n_classes), np.log(SMALLEST))
        several = len(known) > 1
        logits[:, known] = self.scores(spectra.detach().cpu().numpy().astype(np.float64)) if several else 0.0
        return torch.from_numpy(logits).float().to(spectra.device)


class _Margins(Classical):
    """A classifier without probabilities: the confidence is the softmax of its decision values."""

    def scores(self, spectra: np.ndarray) -> np.ndarray:
        values = self.fitted.decision_function(spectra)
        return np.stack([-values, values], 1) / 2 if values.ndim == 1 else values


class SVM(_Margins):
    """Support vector machine with an RBF kernel, C and gamma chosen by cross-validation on the training pixels.

    Source: Melgani and Bruzzone, IEEE TGRS 42 (2004).
    """

    def estimator(self):
        from sklearn.svm import SVC

        return SVC(break_ties=True, decision_function_shape="ovr")

    def grid(self):
        return {"C": [1, 10, 100, 1000], "gamma": [0.001, 0.01, 0.1, "scale"]}


class SGD(_Margins):
    """Linear support vector machine by stochastic gradient descent, averaged, classes weighted inversely to frequency.

    Source: the settings are DeepHyperX's.
    """

    def estimator(self):
        from sklearn.linear_model import SGDClassifier

        return SGDClassifier(class_weight="balanced", average=True, random_state=int(self.seed))


class RandomForest(Classical):
    """A forest of 200 trees.

    Source: Breiman, Machine Learning 45 (2001).
    """

    def estimator(self):
        from sklearn.ensemble import RandomForestClassifier

        return RandomForestClassifier(200, random_state=int(self.seed))


class NearestNeighbours(Classical):
    """The nearest neighbours among the spectra, weighted by distance; their number is chosen by cross-validation."""

    def estimator(self):
        from sklearn.neighbors import KNeighborsClassifier

        return KNeighborsClassifier(1, weights="distance")

    def grid(self):
        return {"n_neighbors": [n for n in NEIGHBOURS if n <= len(self.labels) // 2]}  # a fold trains on a half or more


class LogisticRegression(Classical):
    """Multinomial logistic regression; the strength of the L2 penalty is chosen by cross-validation."""

    def estimator(self):
        from sklearn import linear_model

        return linear_model.LogisticRegression(max_iter=1000)

    def grid(self):
        return {"C": [0.01, 0.1, 1, 10, 100]}


class Location(Classical):
    """The label of the nearest training pixel of the scene: no spectrum is looked at.

    In place of a spectrum it gets the row and the column of a pixel, and its distances are Euclidean. It shows what a
    split gives away by location alone, and maps no other scene.
    """

    def fit(self, spectra: Tensor, labels: Tensor, seed: int, chosen: int | None = None) -> None:  # noqa: ARG002
        from scipy.spatial import KDTree

        self.spectra, self.labels, self.seed = spectra.detach().clone(), labels.clone(), torch.tensor(seed)
        self.fitted = KDTree(spectra.cpu().numpy().astype(np.float64), leafsize=16)  # as `splits.regions` has it

    def classify(self, spectra: Tensor) -> Tensor:
        _, nearest = self.fitted.query(spectra.detach().cpu().numpy().astype(np.float64))
        chosen = torch.nn.functional.one_hot(self.labels.cpu()[nearest], self.n_classes)
        return chosen.float().clamp(SMALLEST).log().to(spectra.device)
