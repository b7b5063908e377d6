"""Scikit-learn's tree ensembles (and mean imputation) as ONNX in double precision, as converters for skl2onnx.

skl2onnx's own converters write ``TreeEnsembleRegressor`` (ai.onnx.ml 3), whose output is float32, and cannot write histogram boosters of
current scikit-learn at all; its ``Imputer`` has no double form in ONNX Runtime. Here trees are ``TreeEnsemble`` nodes (ai.onnx.ml 5):
thresholds and leaves stay float64 and comparisons are scikit-learn's own (``x <= threshold``; forests compare float32 inputs, histogram
boosters float64 with a learned side for NaN), so predictions agree to the order of summation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_NODES = 5_000_000  # about 300 MB of graph; a protobuf message ends at 2 GB
ML_OPSET = 5
_SUM = 1
_LEQ, _MEMBER = 0, 6


class UnsupportedError(Exception):
    """This ensemble has something that the converter does not write; the caller falls back to another format."""


@dataclass(slots=True)
class _Ensemble:
    """The attributes of a ``TreeEnsemble`` node: inner nodes and leaves in two lists."""

    roots: list[int] = field(default_factory=list)
    features: list[int] = field(default_factory=list)
    splits: list[float] = field(default_factory=list)
    missing: list[int] = field(default_factory=list)
    true_ids: list[int] = field(default_factory=list)
    true_leafs: list[int] = field(default_factory=list)
    false_ids: list[int] = field(default_factory=list)
    false_leafs: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    members: list[float] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)

    def add(self, tree: _Tree, target: int, values: NDArray[Any]) -> None:
        """Add one tree whose leaves add ``values`` (one for each node; only leaves count) to ``target``."""
        import numpy as np

        leaf = tree.leaf
        first_node, first_leaf = len(self.features), len(self.weights)
        if first_node + len(leaf) > MAX_NODES:
            raise UnsupportedError(f"more than {MAX_NODES} nodes")
        position = np.where(leaf, np.cumsum(leaf) - 1 + first_leaf, np.cumsum(~leaf) - 1 + first_node)
        self.roots.append(first_node)
        self.weights += values[leaf].tolist()
        self.targets += [target] * int(leaf.sum())
        inner = ~leaf
        if not inner.any():  # a tree that is one leaf: a node both of whose branches lead there
            self._node([0], [0.0], [0], [first_leaf], [1], [first_leaf], [1])
            self.modes.append(_LEQ)
            return
        left, right = tree.left[inner], tree.right[inner]
        missing_left = tree.missing_left[inner].astype(bool)
        modes = np.full(len(left), _LEQ)
        if tree.left_members:
            # A category that was never seen goes where NaN goes, which must be the false branch: it is a member of no set.
            chosen = np.array([node in tree.left_members for node in np.flatnonzero(inner)])
            modes[chosen] = _MEMBER
            swap = chosen & missing_left
            left, right = np.where(swap, right, left), np.where(swap, left, right)
            for node, swapped in zip(np.flatnonzero(inner)[chosen], swap[chosen], strict=True):
                ours, others = tree.left_members[int(node)]
                self.members += [*(others if swapped else ours), float("nan")]
            missing_left = missing_left & ~chosen
        self.modes += modes.tolist()
        self._node(
            tree.feature[inner].tolist(),
            tree.threshold[inner].tolist(),
            missing_left.astype(int).tolist(),
            position[left].tolist(),
            leaf[left].astype(int).tolist(),
            position[right].tolist(),
            leaf[right].astype(int).tolist(),
        )

    def _node(self, features: Any, splits: Any, missing: Any, true_ids: Any, true_leafs: Any, false_ids: Any, false_leafs: Any) -> None:
        self.features += features
        self.splits += splits
        self.missing += missing
        self.true_ids += true_ids
        self.true_leafs += true_leafs
        self.false_ids += false_ids
        self.false_leafs += false_leafs

    def attributes(self, targets: int) -> dict[str, Any]:
        import numpy as np
        from onnx import numpy_helper

        attributes: dict[str, Any] = {}
        if self.members:
            attributes["membership_values"] = numpy_helper.from_array(np.array(self.members, dtype=np.float64), "members")
        return attributes | {
            "aggregate_function": _SUM,
            "n_targets": targets,
            "tree_roots": self.roots,
            "nodes_featureids": self.features,
            "nodes_splits": numpy_helper.from_array(np.array(self.splits, dtype=np.float64), "splits"),
            "nodes_modes": numpy_helper.from_array(np.array(self.modes, dtype=np.uint8), "modes"),
            "nodes_missing_value_tracks_true": self.missing,
            "nodes_truenodeids": self.true_ids,
            "nodes_trueleafs": self.true_leafs,
            "nodes_falsenodeids": self.false_ids,
            "nodes_falseleafs": self.false_leafs,
            "leaf_weights": numpy_helper.from_array(np.array(self.weights, dtype=np.float64), "weights"),
            "leaf_targetids": self.targets,
        }


@dataclass(frozen=True, slots=True)
class _Tree:
    leaf: NDArray[Any]
    feature: NDArray[Any]
    threshold: NDArray[Any]
    missing_left: NDArray[Any]
    left: NDArray[Any]
    right: NDArray[Any]
    values: NDArray[Any]
    """``[nodes]`` for boosters, ``[nodes, outputs or classes]`` for forests."""
    left_members: dict[int, tuple[list[float], list[float]]] = field(default_factory=dict)
    """For a node that splits by category: the categories that go left, and the known ones that go right."""


@dataclass(frozen=True, slots=True)
class _Scores:
    """An ensemble's raw scores, and what turns them into predictions."""

    ensemble: _Ensemble
    targets: int
    base: list[float]
    divide: float
    link: str
    """``identity``, ``exp``, ``sigmoid`` (one raw score, two classes), ``softmax`` or ``shares`` (scores are class shares)."""
    single: bool
    """Inputs are compared as float32."""


def converters() -> tuple[dict[type, Callable[..., None]], dict[type, Callable[..., None]]]:
    """``custom_conversion_functions`` and ``custom_shape_calculators`` for ``skl2onnx.to_onnx``, by estimator class."""
    from sklearn import ensemble, impute, tree

    regressors: list[type] = [
        ensemble.HistGradientBoostingRegressor,
        ensemble.GradientBoostingRegressor,
        ensemble.RandomForestRegressor,
        ensemble.ExtraTreesRegressor,
        tree.DecisionTreeRegressor,
        tree.ExtraTreeRegressor,
    ]
    classifiers: list[type] = [
        ensemble.HistGradientBoostingClassifier,
        ensemble.GradientBoostingClassifier,
        ensemble.RandomForestClassifier,
        ensemble.ExtraTreesClassifier,
        tree.DecisionTreeClassifier,
        tree.ExtraTreeClassifier,
    ]
    convert = dict.fromkeys(regressors, _convert_regressor) | dict.fromkeys(classifiers, _convert_classifier)
    shapes = dict.fromkeys(regressors, _regressor_shape) | dict.fromkeys(classifiers, _classifier_shape)
    return convert | {impute.SimpleImputer: _convert_imputer}, shapes | {impute.SimpleImputer: _imputer_shape}


def use_opset(model: Any) -> None:
    """Declare the opset that ``TreeEnsemble`` needs, in a graph that has one."""
    if not any(node.op_type == "TreeEnsemble" for node in model.graph.node):
        return
    for imported in model.opset_import:
        if imported.domain == "ai.onnx.ml":
            imported.version = ML_OPSET
            return
    model.opset_import.add(domain="ai.onnx.ml", version=ML_OPSET)


def _scores(estimator: Any) -> _Scores:
    if hasattr(estimator, "_predictors"):
        return _histogram_scores(estimator)
    if hasattr(estimator, "_raw_predict_init"):
        return _boosting_scores(estimator)
    return _forest_scores(estimator)


def _histogram_scores(estimator: Any) -> _Scores:
    categories = _categories(estimator)
    ensemble = _Ensemble()
    targets = 1
    for iteration in estimator._predictors:
        targets = len(iteration)
        for target, predictor in enumerate(iteration):
            tree = _histogram_tree(predictor, categories)
            ensemble.add(tree, target, tree.values)
    base = [float(value) for value in estimator._baseline_prediction.ravel()]
    if hasattr(estimator, "classes_"):
        link = "sigmoid" if targets == 1 else "softmax"
    else:
        link = {"IdentityLink": "identity", "LogLink": "exp"}.get(type(estimator._loss.link).__name__, "")
    if not link:
        raise UnsupportedError(f"link {type(estimator._loss.link).__name__}")
    return _Scores(ensemble, targets, base, 1.0, link, single=False)


def _categories(estimator: Any) -> list[NDArray[Any]]:
    """The categories of the categorical features: scikit-learn encodes them by ordinal and moves them to the front for its trees."""
    import numpy as np

    if estimator.is_categorical_ is None:
        return []
    categories = [np.asarray(values) for values in estimator._preprocessor.named_transformers_["encoder"].categories_]
    if any(values.dtype.kind not in "fiub" for values in categories):
        raise UnsupportedError("categories that are not numbers")
    return categories


def _histogram_tree(predictor: Any, categories: list[NDArray[Any]]) -> _Tree:
    import numpy as np

    nodes = predictor.nodes
    members: dict[int, tuple[list[float], list[float]]] = {}
    for node in np.flatnonzero(nodes["is_categorical"].astype(bool) & ~nodes["is_leaf"].astype(bool)):
        bits = predictor.raw_left_cat_bitsets[nodes["bitset_idx"][node]]
        known = categories[nodes["feature_idx"][node]]
        codes = np.flatnonzero(~np.isnan(known.astype(np.float64)))
        ours = (bits[codes // 32] >> (codes % 32).astype(np.uint32) & np.uint32(1)).astype(bool)
        members[int(node)] = (codes[ours].tolist(), codes[~ours].tolist())
    return _Tree(
        nodes["is_leaf"].astype(bool),
        nodes["feature_idx"],
        nodes["num_threshold"],
        nodes["missing_go_to_left"],
        nodes["left"],
        nodes["right"],
        nodes["value"],
        members,
    )


def _encode_categories(scope: Any, container: Any, source: str, estimator: Any) -> str:
    """Categories as their ordinals (unknown: NaN), categorical features first: what the trees of such an estimator split on."""
    import numpy as np
    from onnx import TensorProto, helper

    categories = _categories(estimator)
    flags = np.asarray(estimator.is_categorical_)

    def pick(columns: list[int]) -> str:
        index = scope.get_unique_variable_name("columns")
        container.add_initializer(index, TensorProto.INT64, [len(columns)], columns)
        return _node(scope, container, "Gather", [source, index], axis=1)

    parts = []
    for column, values in zip(np.flatnonzero(flags).tolist(), categories, strict=True):
        known = values.astype(np.float64)
        known = known[~np.isnan(known)]
        made = scope.get_unique_variable_name("codes")
        container.add_node(
            "LabelEncoder",
            pick([column]),
            made,
            op_domain="ai.onnx.ml",
            op_version=1,
            name=scope.get_unique_operator_name("LabelEncoder"),
            keys_tensor=helper.make_tensor("keys", TensorProto.DOUBLE, [len(known)], known),
            values_tensor=helper.make_tensor("values", TensorProto.DOUBLE, [len(known)], np.arange(len(known), dtype=np.float64)),
            default_tensor=helper.make_tensor("default", TensorProto.DOUBLE, [1], [float("nan")]),
        )
        parts.append(made)
    rest = np.flatnonzero(~flags).tolist()
    return _node(scope, container, "Concat", [*parts, *([pick(rest)] if rest else [])], axis=1)


def _boosting_scores(estimator: Any) -> _Scores:
    import numpy as np

    if type(estimator.init_).__name__ not in ("DummyRegressor", "DummyClassifier", "str") and estimator.init_ != "zero":
        raise UnsupportedError("an init estimator that is not constant")
    ensemble = _Ensemble()
    targets = estimator.estimators_.shape[1]
    for stage in estimator.estimators_:
        for target, member in enumerate(stage):
            tree = _sklearn_tree(member.tree_)
            ensemble.add(tree, target, tree.values[:, 0] * estimator.learning_rate)
    base = estimator._raw_predict_init(np.zeros((1, estimator.n_features_in_), dtype=np.float32)).ravel().tolist()
    link = "identity"
    if hasattr(estimator, "classes_"):
        if type(estimator._loss).__name__ == "ExponentialLoss":
            raise UnsupportedError("exponential loss")
        link = "sigmoid" if targets == 1 else "softmax"
    return _Scores(ensemble, targets, base, 1.0, link, single=True)


def _forest_scores(estimator: Any) -> _Scores:
    members = getattr(estimator, "estimators_", None) or [estimator]
    if getattr(estimator, "n_outputs_", 1) != 1:
        raise UnsupportedError("several outputs")
    ensemble = _Ensemble()
    targets = 1
    for tree in _member_trees(members):
        targets = tree.values.shape[1]
        for target in range(targets):  # a leaf has one target, so several classes take a copy of the tree each
            ensemble.add(tree, target, tree.values[:, target])
    link = "shares" if hasattr(estimator, "classes_") else "identity"
    return _Scores(ensemble, targets, [0.0] * targets, float(len(members)), link, single=True)


def _member_trees(members: Any) -> Iterator[_Tree]:
    for member in members:
        yield _sklearn_tree(member.tree_)


def _sklearn_tree(tree: Any) -> _Tree:
    values = tree.value[:, 0, :]
    return _Tree(
        tree.children_left == -1,
        tree.feature,
        tree.threshold,
        tree.missing_go_to_left,
        tree.children_left,
        tree.children_right,
        values,
    )


def _raw_scores(scope: Any, container: Any, source: str, estimator: Any, scores: _Scores) -> str:
    """Add the nodes up to the raw scores ``[n, targets]`` (double); returns their name."""
    from onnx import TensorProto

    if scores.single:
        source = _node(scope, container, "Cast", [source], to=TensorProto.FLOAT)
    source = _node(scope, container, "Cast", [source], to=TensorProto.DOUBLE)
    if getattr(estimator, "is_categorical_", None) is not None:
        source = _encode_categories(scope, container, source, estimator)
    made: str = scope.get_unique_variable_name("raw")
    container.add_node(
        "TreeEnsemble",
        source,
        made,
        op_domain="ai.onnx.ml",
        op_version=1,  # skl2onnx knows no later than 3 and refuses it; `use_opset` corrects the whole graph afterwards
        name=scope.get_unique_operator_name("TreeEnsemble"),
        **scores.ensemble.attributes(scores.targets),
    )
    if scores.divide != 1.0:
        made = _node(scope, container, "Div", [made, _constant(scope, container, [scores.divide])])
    if any(scores.base):
        made = _node(scope, container, "Add", [made, _constant(scope, container, scores.base)])
    return made


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    scores = _scores(operator.raw_operator)
    raw = _raw_scores(scope, container, operator.inputs[0].full_name, operator.raw_operator, scores)
    link = "Exp" if scores.link == "exp" else "Identity"
    container.add_node(link, raw, operator.outputs[0].full_name, name=scope.get_unique_operator_name(link))


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    import numpy as np
    from onnx import TensorProto

    estimator = operator.raw_operator
    scores = _scores(estimator)
    label, probabilities = (output.full_name for output in operator.outputs[:2])
    raw = _raw_scores(scope, container, operator.inputs[0].full_name, estimator, scores)
    if scores.link == "sigmoid":
        second = _node(scope, container, "Sigmoid", [raw])
        first = _node(scope, container, "Sub", [_constant(scope, container, [1.0]), second])
        _node(scope, container, "Concat", [first, second], made=probabilities, axis=1)
    else:
        options = {"axis": 1} if scores.link == "softmax" else {}
        _node(scope, container, "Softmax" if options else "Identity", [raw], made=probabilities, **options)
    best = _node(scope, container, "ArgMax", [probabilities], axis=1, keepdims=0)
    classes = np.asarray(estimator.classes_)
    name = scope.get_unique_variable_name("classes")
    if classes.dtype.kind in "OUS":
        container.add_initializer(name, TensorProto.STRING, [len(classes)], [str(value).encode() for value in classes])
    else:
        container.add_initializer(name, TensorProto.INT64, [len(classes)], [int(value) for value in classes])
    _node(scope, container, "Gather", [name, best], made=label, axis=0)


def _convert_imputer(scope: Any, operator: Any, container: Any) -> None:
    import numpy as np
    from onnx import TensorProto

    imputer = operator.raw_operator
    fills = np.asarray(imputer.statistics_)
    if fills.dtype.kind != "f" or np.isnan(fills).any() or imputer.add_indicator or not np.isnan(imputer.missing_values):
        raise UnsupportedError("an imputer of other than NaN in numbers")
    source = _node(scope, container, "Cast", [operator.inputs[0].full_name], to=TensorProto.DOUBLE)
    missing = _node(scope, container, "IsNaN", [source])
    constant = _constant(scope, container, fills.tolist())
    _node(scope, container, "Where", [missing, constant, source], made=operator.outputs[0].full_name)


def _node(scope: Any, container: Any, kind: str, inputs: list[str], *, made: str | None = None, **attributes: Any) -> str:
    made = made or scope.get_unique_variable_name(kind.lower())
    versions = {
        "Cast": 13,
        "Add": 14,
        "Sub": 14,
        "Div": 14,
        "Sigmoid": 13,
        "Softmax": 13,
        "Concat": 13,
        "ArgMax": 13,
        "Gather": 13,
        "IsNaN": 13,
        "Where": 9,
    }
    container.add_node(kind, inputs, made, name=scope.get_unique_operator_name(kind), op_version=versions.get(kind, 14), **attributes)
    return str(made)


def _constant(scope: Any, container: Any, values: list[float]) -> str:
    from onnx import TensorProto

    name = scope.get_unique_variable_name("constant")
    container.add_initializer(name, TensorProto.DOUBLE, [1, len(values)], values)
    return str(name)


def _regressor_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, 1])


def _classifier_shape(operator: Any) -> None:
    import numpy as np
    from skl2onnx.common.data_types import DoubleTensorType, Int64TensorType, StringTensorType

    classes = np.asarray(operator.raw_operator.classes_)
    operator.outputs[0].type = (StringTensorType if classes.dtype.kind in "OUS" else Int64TensorType)([None])
    operator.outputs[1].type = DoubleTensorType([None, len(classes)])


def _imputer_shape(operator: Any) -> None:
    from skl2onnx.common.data_types import DoubleTensorType

    operator.outputs[0].type = DoubleTensorType([None, len(operator.raw_operator.statistics_)])
